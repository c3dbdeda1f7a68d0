/* Teaches the embedded engine one answer, and asks for it: gcc hello.c $(pkg-config --cflags --libs tinkex) */
#include <stdio.h>
#include "connect.h"
#define TRY(call) if ((call) != TINKEX_OK) goto done

int main(void) {
  const int32_t question[] = {'2', '+', '2', '='}, answer[] = {'4', '\n'}; /* each byte is a token */
  tinkex_error *error = NULL; tinkex_server *server = NULL; tinkex_service *service = NULL; tinkex_training *training = NULL;
  tinkex_sampling *sampler = NULL; tinkex_batch *batch = tinkex_batch_new(); tinkex_loss *loss = NULL; tinkex_optim *adam = NULL;
  tinkex_pending *pass = NULL, *update = NULL, *sample = NULL; const tinkex_result *result = NULL; size_t n = 0;
  TRY(connect_service(&server, &service, &error));
  TRY(tinkex_training_new(service, base_model(), NULL, &training, &error));
  TRY(tinkex_batch_add_completion(batch, question, 4, answer, 2, NULL, &error));
  TRY(tinkex_loss_new("cross_entropy", &loss, &error));
  TRY(tinkex_optim_new("adam", &adam, &error));
  tinkex_optim_set(adam, "learning_rate", 5e-3);
  for (int step = 0; step < 20; step++, tinkex_pending_free(&pass), tinkex_pending_free(&update))
    TRY(tinkex_training_train_step(training, batch, loss, adam, &pass, &update, &error) || tinkex_pending_wait(pass, -1, &result, &error));
  TRY(tinkex_training_sampler(training, 0, &sampler, &error));
  TRY(tinkex_sampling_sample_tokens(sampler, question, 4, 1, NULL, &sample, &error) || tinkex_pending_wait(sample, -1, &result, &error));
  const int32_t *tokens = tinkex_result_tokens(result, 0, &n);
  printf("2+2=");
  for (size_t i = 0; i < n && tokens[i] != '\n'; i++) putchar(tokens[i] < 127 ? tokens[i] : '.');
  putchar('\n');
done:
  if (error) fprintf(stderr, "hello: %s\n", tinkex_error_message(error));
  tinkex_pending_free(&sample), tinkex_pending_free(&update), tinkex_pending_free(&pass), tinkex_optim_free(&adam), tinkex_loss_free(&loss);
  tinkex_batch_free(&batch), tinkex_sampling_free(&sampler), tinkex_training_free(&training), tinkex_service_free(&service);
  tinkex_server_free(&server), tinkex_error_free(&error);
  return n > 0 && tinkex_live_objects() == 0 ? 0 : 1;
}
