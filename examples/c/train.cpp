// Teaches a model pig latin and shows what it learned: train.c with tinkex.hpp. `train_cpp [STEPS]`
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include <tinkex.hpp>
#include "pig_latin.h"

namespace {
// Each byte is a token.
std::vector<std::int32_t> encode(const std::string &text) {
  std::vector<std::int32_t> tokens;
  for (unsigned char byte : text) tokens.push_back(byte);
  return tokens;
}

// Without trailing white space; tokens that are not printable ASCII become dots.
std::string decode(tinkex::tokens tokens) {
  std::string text;
  for (auto token : tokens) text += token == '\n' || token == ' ' ? ' ' : token > ' ' && token < 127 ? static_cast<char>(token) : '.';
  text.erase(text.find_last_not_of(' ') + 1);
  for (char &c : text) c = c == ' ' ? '.' : c;
  return text;
}

std::vector<std::int32_t> prompt(const std::string &word) { return encode(word + " -> "); }

// Samples an answer to each word. All samples are in flight at the same time.
std::vector<std::string> ask(const tinkex::sampling &sampler, const std::vector<std::string> &words) {
  tinkex::sample_options options;
  options.max_tokens(MAX_TOKENS).temperature(0).stop_tokens(encode("\n"));
  std::vector<tinkex::pending<tinkex::sample>> samples;
  for (auto &word : words) samples.push_back(sampler.sample(prompt(word), 1, options));
  tinkex::wait_all(samples);
  std::vector<std::string> answers;
  for (auto &sample : samples) answers.push_back(decode(sample.wait().tokens()));
  return answers;
}

void run(int steps, int n_tested) {
  const auto started = std::chrono::steady_clock::now();
  const bool is_remote = std::getenv("TINKER_API_KEY") != nullptr;
  const char *name = std::getenv("TINKEX_BASE_MODEL");
  const std::string model = is_remote && name ? name : "tinkex/nano";
  std::optional<tinkex::server> server; // destroyed after the clients
  if (!is_remote) server.emplace();
  const tinkex::service service(server ? server->options() : tinkex::service_options());
  const auto training = service.training(model);

  std::vector<std::string> words;
  for (int i = 0; i < n_tested; i++) words.push_back(PAIRS[i][0]);
  const auto before = ask(service.sampling(model), words);
  std::printf("Answers of %s before training:\n", model.c_str());
  for (int i = 0; i < n_tested; i++) std::printf("  %-10s %s\n", words[i].c_str(), before[i].c_str());

  std::printf("Training on %d words ...\n", N_PAIRS);
  tinkex::batch batch;
  for (auto &pair : PAIRS) batch.add_completion(prompt(pair[0]), encode(std::string(pair[1]) + "\n"));
  const tinkex::loss loss("cross_entropy");
  tinkex::optim adam;
  // Submit the next step before waiting for this one, so that the server is not idle between them.
  auto submit = [&](int step) {
    adam.set("learning_rate", LEARNING_RATE * (1.0 - static_cast<double>(step) / steps));
    auto pass = training.forward_backward(batch, loss);
    return std::pair(std::move(pass), training.optim_step(adam));
  };
  double first = 0, last = 0;
  auto current = submit(0);
  for (int step = 0; step < steps; step++) {
    std::optional<decltype(current)> next;
    if (step + 1 < steps) next = submit(step + 1);
    last = current.first.wait().loss_per_token(); // of the tokens that have a weight: the answers
    current.second.wait();
    if (step == 0) first = last;
    if ((step + 1) % 25 == 0) std::printf("  %d/%d loss %.3f per token\n", step + 1, steps, last);
    if (next) current = std::move(*next);
  }

  const auto state = training.save_state("pig-latin");
  const auto weights = training.save_for_sampler("pig-latin");
  const auto sampler = service.sampling(weights.wait().path());
  const auto after = ask(sampler, words);
  int exact = 0;
  std::printf("\n  %-10s %-14s %-14s %-14s\n", "word", "before", "after", "right answer");
  for (int i = 0; i < n_tested; i++) {
    const bool is_right = after[i] == PAIRS[i][1];
    exact += is_right;
    std::printf("  %-10s %-14s %-14s %-14s %s\n", words[i].c_str(), before[i].c_str(), after[i].c_str(), PAIRS[i][1], is_right ? "\xe2\x9c\x93" : " ");
  }
  std::printf("\nWords that were not in the training data:\n");
  const std::vector<std::string> unseen(UNSEEN, UNSEEN + std::min<int>(n_tested, N_UNSEEN));
  const auto guessed = ask(sampler, unseen);
  for (std::size_t i = 0; i < unseen.size(); i++) std::printf("  %-10s %s\n", unseen[i].c_str(), guessed[i].c_str());
  std::printf("\nSaved as %s\n", state.wait().path().c_str());
  service.close();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  std::printf("train: exact %d/%d, loss %.2f -> %.2f, %.1f s\n", exact, n_tested, first, last, seconds.count());
}
} // namespace

int main(int argc, char **argv) {
  int failed = 0;
  try {
    run(argc > 1 ? std::atoi(argv[1]) : STEPS, argc > 2 ? std::min<int>(std::atoi(argv[2]), N_TESTED) : N_TESTED);
  } catch (const tinkex::error &error) {
    std::fprintf(stderr, "train: %s: %s\n", error.name(), error.what());
    failed = 1;
  }
  return failed || tinkex_live_objects() != 0;
}
