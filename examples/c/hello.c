/* Teaches the embedded engine one answer, and asks for it: gcc hello.c $(pkg-config --cflags --libs tinkex) */
#include <stdio.h>
#include "connect.h"

int main(void) {
  const int32_t question[] = {'2', '+', '2', '='}, answer[] = {'4', '\n'}; /* each byte is a token */
  tinkex_error *error = NULL; tinkex_server *server = NULL; tinkex_service *service = NULL; tinkex_training *training = NULL;
  tinkex_sampling *sampler = NULL; tinkex_batch *batch = tinkex_batch_new(); tinkex_loss *loss = NULL; tinkex_optim *adam = NULL;
  tinkex_pending *pass = NULL, *update = NULL, *sample = NULL; const tinkex_result *result = NULL; size_t n = 0;
  tinkex_sample_options *greedy = tinkex_sample_options_new();
  if (connect_service(&server, &service, &error) || tinkex_training_new(service, base_model(), NULL, &training, &error)) goto done;
  if (tinkex_batch_add_completion(batch, question, 4, answer, 2, NULL, &error)) goto done;
  if (tinkex_loss_new("cross_entropy", &loss, &error) || tinkex_optim_new("adam", &adam, &error)) goto done;
  tinkex_optim_set(adam, "learning_rate", 5e-3), tinkex_sample_options_set_max_tokens(greedy, 1), tinkex_sample_options_set_temperature(greedy, 0);
  for (int step = 0; step < 20; step++, tinkex_pending_free(&pass), tinkex_pending_free(&update))
    if (tinkex_training_train_step(training, batch, loss, adam, &pass, &update, &error) || tinkex_pending_wait(update, -1, NULL, &error)) goto done;
  if (tinkex_training_sampler(training, 0, &sampler, &error)) goto done;
  if (tinkex_sampling_sample_tokens(sampler, question, 4, 1, greedy, &sample, &error) || tinkex_pending_wait(sample, -1, &result, &error)) goto done;
  printf("2+2=%c\n", tinkex_result_tokens(result, 0, &n)[0]);
done:
  if (error) fprintf(stderr, "hello: %s\n", tinkex_error_message(error));
  tinkex_pending_free(&sample), tinkex_pending_free(&update), tinkex_pending_free(&pass), tinkex_optim_free(&adam), tinkex_loss_free(&loss);
  tinkex_batch_free(&batch), tinkex_sampling_free(&sampler), tinkex_training_free(&training), tinkex_service_free(&service);
  tinkex_server_free(&server), tinkex_sample_options_free(&greedy), tinkex_error_free(&error);
  return n == 0 || tinkex_live_objects() != 0;
}
