/* The training data and settings of train.c, train.cpp and train.py: those of examples/quickstart.rs. */
#ifndef PIG_LATIN_H
#define PIG_LATIN_H

enum { N_PAIRS = 48, N_TESTED = 10, N_UNSEEN = 5, STEPS = 150, MAX_TOKENS = 14, MAX_TEXT = 32 };
static const double LEARNING_RATE = 6e-3;

/* A word and the answer in pig latin. The first N_TESTED words are tested before and after the training. */
static const char *const PAIRS[N_PAIRS][2] = {
  {"banana", "ananabay"}, {"pizza", "izzapay"}, {"smile", "ilesmay"},
  {"string", "ingstray"}, {"apple", "appleway"}, {"quick", "ickquay"},
  {"thunder", "underthay"}, {"orange", "orangeway"}, {"glove", "oveglay"},
  {"happy", "appyhay"}, {"latin", "atinlay"}, {"duck", "uckday"},
  {"trash", "ashtray"}, {"floor", "oorflay"}, {"store", "orestay"},
  {"egg", "eggway"}, {"under", "underway"}, {"island", "islandway"},
  {"cheers", "eerschay"}, {"shesh", "eshshay"}, {"moon", "oonmay"},
  {"river", "iverray"}, {"bread", "eadbray"}, {"cloud", "oudclay"},
  {"dream", "eamdray"}, {"friend", "iendfray"}, {"green", "eengray"},
  {"house", "ousehay"}, {"jungle", "unglejay"}, {"kitten", "ittenkay"},
  {"lemon", "emonlay"}, {"music", "usicmay"}, {"night", "ightnay"},
  {"planet", "anetplay"}, {"rocket", "ocketray"}, {"snow", "owsnay"},
  {"table", "abletay"}, {"voice", "oicevay"}, {"window", "indowway"},
  {"yellow", "ellowyay"}, {"zebra", "ebrazay"}, {"ocean", "oceanway"},
  {"spring", "ingspray"}, {"three", "eethray"}, {"whale", "alewhay"},
  {"ghost", "ostghay"}, {"paper", "aperpay"}, {"garden", "ardengay"},
};

/* Words that are not in the training data. */
static const char *const UNSEEN[N_UNSEEN] = {"lemonade", "street", "pencil", "umbrella", "forest"};

#endif
