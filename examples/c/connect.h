/* What the examples have in common: where to connect to. */
#ifndef CONNECT_H
#define CONNECT_H
#include <stdlib.h>
#include <string.h>
#include <tinkex.h>

/* Connects to the service at TINKER_BASE_URL with TINKER_API_KEY, or, without a key, starts the embedded engine, which
 * must be freed after the service. */
static inline tinkex_code connect_service(tinkex_server **server, tinkex_service **service, tinkex_error **error) {
  tinkex_service_options *options = NULL;
  tinkex_code code = TINKEX_OK;
  *server = NULL;
  *service = NULL;
  if (!getenv("TINKER_API_KEY")) {
    code = tinkex_server_new(NULL, server, error);
    if (code != TINKEX_OK) return code;
    options = tinkex_service_options_new();
    tinkex_service_options_set_base_url(options, tinkex_server_url(*server));
    tinkex_service_options_set_api_key(options, tinkex_server_api_key(*server));
  }
  code = tinkex_service_new(options, service, error);
  tinkex_service_options_free(&options);
  return code;
}

/* The model to train. */
static inline const char *base_model(void) {
  const char *name = getenv("TINKEX_BASE_MODEL");
  return name && getenv("TINKER_API_KEY") ? name : "tinkex/nano";
}

/* Writes the bytes of a text as tokens, which every model's vocabulary has, and returns their number. */
static inline size_t bytes_as_tokens(const char *text, int32_t *tokens, size_t capacity) {
  size_t n = strlen(text) < capacity ? strlen(text) : capacity;
  for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)text[i];
  return n;
}

#endif
