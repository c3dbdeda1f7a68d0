//! Tests of reading prompts: in chunks, and with the keys and values of earlier prompts.

use super::super::prefix_cache::PrefixCache;
use super::super::prompt::{CHUNK, PromptScratch};
use super::super::segment::{BLOCK, Segment};
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A small model with room for long prompts.
fn long() -> ModelConfig {
    ModelConfig { max_len: 4096, ..tiny() }
}

fn tokens(len: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::stream(seed, 1);
    (0..len).map(|_| (rng.next() % 17) as u32).collect()
}

/// A request for two samples.
fn request(prompt: &[u32]) -> Generate {
    Generate { num_samples: 2, max_tokens: 12, seed: 7, ..super::request(prompt) }
}

fn scored(prompt: &[u32]) -> Generate {
    Generate { prompt_logprobs: true, topk_prompt_logprobs: 2, ..request(prompt) }
}

/// A model with its weights in memory, and one with its weights in files. The trainers of both have adapters.
fn trainers() -> [Trainer; 2] {
    [with_noise(&long(), 2), folders::adapted("qwen3", &folders::open("qwen3", 0))]
}

/// Requests whose prompts begin alike: the same prompt, a part of it, a longer one, and others that leave it in the first
/// block, at the end of a block and within a block.
fn related(limit: usize) -> Vec<Generate> {
    let whole = tokens(limit, 3);
    let leaves = |at: usize| [&whole[..at], &tokens(40, 4)[..]].concat();
    let len = limit / 2;
    let mut all = vec![request(&whole[..len]), request(&whole[..len]), scored(&whole[..len])];
    all.push(request(&whole));
    all.push(request(&whole[..len - 1]));
    all.push(request(&whole[..BLOCK + 1]));
    all.push(request(&whole[..1]));
    all.extend([3, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK].map(|at| request(&leaves(at))));
    all.push(Generate { targets: vec![(len - 3, 5), (len - 2, 6)], ..request(&whole[..len]) });
    all
}

#[test]
fn a_request_has_the_same_bits_whatever_prompts_were_read_before() {
    for trainer in trainers() {
        let limit = trainer.model.base.config.max_len.min(CHUNK + 200) - 16;
        let requests = related(limit);
        let cold: Vec<Generated> = requests.iter().map(|req| generate(&trainer.sampler(), req)).collect();
        let forward = trainer.sampler();
        let backward = trainer.sampler();
        for (req, cold) in requests.iter().zip(&cold) {
            assert_eq!(&generate(&forward, req), cold, "{}", req.prompt.len());
        }
        for (req, cold) in requests.iter().zip(&cold).rev() {
            assert_eq!(&generate(&backward, req), cold, "{}", req.prompt.len());
        }
    }
}

#[test]
fn a_result_tells_how_many_tokens_of_the_prompt_were_in_the_cache() {
    let sampler = with_noise(&long(), 2).sampler();
    let whole = tokens(3 * BLOCK, 3);
    let longer = [&whole[..2 * BLOCK + 1], &tokens(9, 4)[..]].concat();
    // The last token of a prompt is never read from the cache; scores of all tokens need them to be read again.
    let cases = [
        (request(&whole), 0),
        (request(&whole), whole.len() - 1),
        (request(&longer), 2 * BLOCK),
        (request(&tokens(50, 5)), 0),
        (scored(&whole), 0),
    ];
    for (i, (req, cached)) in cases.iter().enumerate() {
        assert_eq!(generate(&sampler, req).cached, *cached, "{i}");
    }
}

#[test]
fn requests_that_read_the_same_prompt_at_the_same_time_have_the_same_bits_as_alone() {
    for trainer in trainers() {
        let limit = trainer.model.base.config.max_len.min(CHUNK + 200) - 16;
        let requests = related(limit);
        let cold: Vec<Generated> = requests.iter().map(|req| generate(&trainer.sampler(), req)).collect();
        let sampler = Arc::new(trainer.sampler());
        let (send, receive) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            for (i, req) in requests.iter().enumerate() {
                let (sampler, send) = (sampler.clone(), send.clone());
                scope.spawn(move || {
                    let done = move |result| drop(send.send((i, result)));
                    sampler.submit(req, Box::new(|_, _| false), || false, done, &sampling::Endless);
                });
            }
        });
        drop(send);
        let results: Vec<(usize, Result<Generated, String>)> = receive.iter().collect();
        assert_eq!(results.len(), requests.len());
        for (i, result) in results {
            assert_eq!(result.unwrap(), cold[i], "{i}");
        }
    }
}

#[test]
fn a_prompt_of_several_chunks_has_the_log_probabilities_of_training() {
    let mut trainer = with_noise(&long(), 2);
    let prompt = tokens(2 * CHUNK + 77, 5);
    let example = Example {
        tokens: prompt[..prompt.len() - 1].to_vec(),
        targets: prompt[1..].iter().map(|&id| i64::from(id)).collect(),
        k: 1,
        weights: vec![1.0; prompt.len() - 1],
        ..Example::default()
    };
    let expected = trainer.run(&[example], &Loss::CrossEntropy, false).unwrap().logprobs.remove(0);
    let sampler = trainer.sampler();
    let all = generate(&sampler, &scored(&prompt)).prompt_logprobs.unwrap();
    assert_eq!(all.len(), prompt.len());
    for (i, (ours, theirs)) in all[1..].iter().zip(&expected).enumerate() {
        assert!((ours.unwrap() - theirs).abs() < 1e-4, "{i}: {ours:?} {theirs}");
    }
    // Targets at the end are scored without the rows before them.
    let late = prompt.len() - 2;
    let targets = vec![(late, prompt[late + 1])];
    let generated = generate(&sampler, &Generate { targets, ..request(&prompt) });
    assert_eq!(generated.targets, [all[late + 1].unwrap()]);
}

#[test]
fn one_prompt_gives_one_result_for_any_number_of_threads() {
    for model in [None, Some("llama")] {
        let run = |threads| {
            in_pool(threads, || {
                let trainer = match model {
                    None => with_noise(&long(), 2),
                    Some(model) => folders::adapted(model, &folders::open(model, 0)),
                };
                let len = trainer.model.base.config.max_len.min(CHUNK + 200) - 16;
                generate(&trainer.sampler(), &scored(&tokens(len, 6)))
            })
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn the_memory_for_reading_a_prompt_does_not_depend_on_its_length() {
    let sampler = with_noise(&long(), 2).sampler();
    let bytes = |chunks: usize| {
        let mut scratch = PromptScratch::default();
        let mut reading = sampler.open(&scored(&tokens(chunks * CHUNK + 1, 8))).unwrap();
        while sampler.read_chunk(&mut reading, &mut scratch) {}
        scratch.bytes()
    };
    let two = bytes(2);
    assert!(0 < two && bytes(7) == two);
}

#[test]
fn a_request_that_is_cancelled_while_its_prompt_is_read_ends_after_a_chunk() {
    let sampler = with_noise(&long(), 2).sampler();
    let asked = AtomicUsize::new(0);
    let cancelled = || 3 < asked.fetch_add(1, Ordering::Relaxed);
    // Generating one token asks too few times to be cancelled.
    let req = Generate { max_tokens: 1, ..request(&tokens(7 * CHUNK, 9)) };
    let result = sampler.generate(&req, &mut |_, _| false, &cancelled);
    assert_eq!(result.unwrap_err(), "cancelled");
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}

#[test]
fn prompts_of_one_sampler_are_not_used_by_another_and_are_dropped_with_it() {
    let cache = Arc::new(PrefixCache::default());
    let base = Arc::new(Weights::seeded(&long(), 1));
    let trainer = with_noise(&long(), 2);
    let untrained = Sampler::base(base.clone(), cache.clone());
    let merged = Sampler::adapted(&everything(2), trainer.params().to_vec(), &untrained);
    let req = request(&tokens(300, 10));
    let (a, b) = (generate(&untrained, &req), generate(&merged, &req));
    assert_ne!(a.sequences[0].logprobs, b.sequences[0].logprobs);
    assert_eq!(b, generate(&trainer.sampler(), &req));
    let both = cache.bytes();
    drop(merged);
    assert_eq!(2 * cache.bytes(), both);
    drop(untrained);
    assert_eq!(cache.bytes(), 0);
}

/// Adds a prompt to a cache, as far as it is missing, and returns the number of tokens that the cache had.
fn add(cache: &PrefixCache, weights: &Weights, owner: u64, prompt: &[u32]) -> usize {
    let mut found = cache.find(owner, prompt);
    let had = found.len();
    let read: Vec<Segment> = (had..prompt.len())
        .step_by(BLOCK)
        .map(|at| Segment::unwritten(weights, at, BLOCK.min(prompt.len() - at)))
        .collect();
    cache.add(owner, &mut found, &prompt[had..], read, weights);
    assert_eq!(found.len(), prompt.len());
    had
}

#[test]
fn the_cache_has_the_blocks_of_the_longest_common_beginning() {
    let weights = Weights::seeded(&long(), 1);
    let cache = PrefixCache::default();
    let prompt = tokens(3 * BLOCK + 10, 11);
    assert_eq!(add(&cache, &weights, 1, &prompt), 0);
    assert_eq!(
        add(&cache, &weights, 1, &prompt),
        prompt.len(),
        "a whole prompt with its last, shorter block"
    );
    assert_eq!(add(&cache, &weights, 1, &prompt[..3 * BLOCK + 9]), 3 * BLOCK);
    assert_eq!(add(&cache, &weights, 2, &prompt), 0, "another sampler");
    let mut other = prompt.clone();
    other[BLOCK] ^= 1;
    assert_eq!(add(&cache, &weights, 1, &other), BLOCK);
    other[0] ^= 1;
    assert_eq!(add(&cache, &weights, 1, &other), 0, "the same later blocks after another first one");
}

#[test]
fn the_cache_keeps_to_its_limit_and_the_blocks_that_were_used_last() {
    let weights = Weights::seeded(&long(), 1);
    let block = Segment::bytes(&weights, BLOCK);
    let cache = PrefixCache::new(5 * block);
    let [a, b, c] = [12, 13, 14].map(|seed| tokens(2 * BLOCK, seed));
    for prompt in [&a, &b] {
        add(&cache, &weights, 1, prompt);
    }
    assert_eq!(add(&cache, &weights, 1, &a), 2 * BLOCK);
    add(&cache, &weights, 1, &c);
    assert_eq!(cache.bytes(), 5 * block);
    let had = |prompt: &[u32]| cache.find(1, prompt).len();
    assert_eq!(
        [had(&a), had(&b), had(&c)],
        [2 * BLOCK, BLOCK, 2 * BLOCK],
        "the end of a prompt is removed first"
    );
    // A prompt that is larger than the cache leaves its beginning there.
    let large = tokens(9 * BLOCK, 15);
    add(&cache, &weights, 1, &large);
    assert_eq!((had(&large), cache.bytes()), (5 * BLOCK, 5 * block));
}
