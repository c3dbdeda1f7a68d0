//! Tests of the sampler: against the forward pass of training, and of its other properties.

use super::*;
use crate::local::nn::{Rest, TimeSlice};
use crossbeam_channel::{Receiver, bounded};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The log-probability of each token given the earlier ones, by the forward pass of training.
fn scored(trainer: &mut Trainer, tokens: &[u32]) -> Vec<f32> {
    let example = Example {
        tokens: tokens[..tokens.len() - 1].to_vec(),
        targets: tokens[1..].iter().map(|&t| i64::from(t)).collect(),
        k: 1,
        weights: vec![1.0; tokens.len() - 1],
        ..Example::default()
    };
    trainer.run(&[example], &Loss::CrossEntropy, false).unwrap().logprobs.remove(0)
}

fn prompt(len: usize) -> Vec<u32> {
    let mut rng = Rng::stream(12, 12);
    (0..len).map(|_| (rng.next() % 17) as u32).collect()
}

#[test]
fn sampling_with_the_cache_gives_the_log_probabilities_of_training() {
    let mut trainer = with_noise(&tiny(), 2);
    let sampler = trainer.sampler();
    for len in [1, 2, 31, 32, 33, 70] {
        let prompt = prompt(len);
        let req = Generate { prompt_logprobs: true, topk_prompt_logprobs: 3, ..request(&prompt) };
        let generated = generate(&sampler, &req);
        let sequence = &generated.sequences[0];
        assert_eq!((sequence.tokens.len(), sequence.stopped), (40, false));
        let all: Vec<u32> = prompt.iter().chain(&sequence.tokens).copied().collect();
        let expected = scored(&mut trainer, &all);
        let prompt_logprobs = generated.prompt_logprobs.unwrap();
        assert_eq!((prompt_logprobs.len(), prompt_logprobs[0]), (len, None));
        let ours = prompt_logprobs.into_iter().flatten().chain(sequence.logprobs.iter().copied());
        for (ours, theirs) in ours.zip(&expected) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
        let top = generated.topk_prompt_logprobs.unwrap();
        assert_eq!(top.len(), len);
        for (i, best) in top.iter().enumerate().skip(1) {
            let best = best.as_ref().unwrap();
            assert!(best.len() == 3 && best[0].1 >= best[1].1 && best[1].1 >= best[2].1);
            assert!(best[0].1 >= expected[i - 1] - 1e-4);
        }
    }
}

#[test]
fn greedy_sampling_takes_the_likeliest_token_each_time() {
    let mut trainer = with_noise(&tiny(), 2);
    let req = Generate { temperature: 0.0, max_tokens: 12, ..request(&prompt(5)) };
    let sequence = &generate(&trainer.sampler(), &req).sequences[0];
    let mut tokens = req.prompt.clone();
    for (&token, &logprob) in sequence.tokens.iter().zip(&sequence.logprobs) {
        let best = (0..17).map(|id| {
            let mut candidate = tokens.clone();
            candidate.push(id);
            *scored(&mut trainer, &candidate).last().unwrap()
        });
        let best: Vec<f32> = best.collect();
        assert!(best.iter().all(|lp| *lp <= best[token as usize] + 1e-5));
        assert!((best[token as usize] - logprob).abs() < 1e-4);
        tokens.push(token);
    }
}

#[test]
fn a_sample_has_the_same_bits_alone_and_among_sixteen() {
    let sampler = with_noise(&ModelConfig::nano(), 4).sampler();
    let alone = generate(&sampler, &request(&prompt(40)));
    let sixteen = generate(&sampler, &Generate { num_samples: 16, ..request(&prompt(40)) });
    let five = generate(&sampler, &Generate { num_samples: 5, ..request(&prompt(40)) });
    assert_eq!(alone.sequences[0], sixteen.sequences[0]);
    assert_eq!(five.sequences[..], sixteen.sequences[..5]);
    assert_ne!(sixteen.sequences[0].tokens, sixteen.sequences[1].tokens);
}

#[test]
fn a_sample_has_the_same_bits_after_other_samples_have_ended() {
    let sampler = with_noise(&ModelConfig::nano(), 4).sampler();
    let req = Generate { num_samples: 6, ..request(&prompt(3)) };
    let all = generate(&sampler, &req);
    let mut stop = |i: usize, tokens: &[u32]| i.is_multiple_of(2) && tokens.len() > i;
    let some = sampler.generate(&req, &mut stop, &|| false).unwrap();
    for (i, (a, b)) in all.sequences.iter().zip(&some.sequences).enumerate() {
        let len = if i.is_multiple_of(2) { i + 1 } else { 40 };
        assert_eq!((b.tokens.len(), b.stopped), (len, i.is_multiple_of(2)));
        assert_eq!((&a.tokens[..len], &a.logprobs[..len]), (&b.tokens[..], &b.logprobs[..]));
    }
}

#[test]
fn samples_beyond_the_concurrent_limit_have_the_same_bits_as_few_samples() {
    let sampler = with_noise(&tiny(), 2).sampler();
    // The caches of all samples together would take 40 MB, which is more than the limit.
    let large = Generate { num_samples: 420, max_tokens: 155, ..request(&prompt(3)) };
    let mut stop = |i: usize, tokens: &[u32]| i.is_multiple_of(3) && tokens.len() > i % 70;
    let all = sampler.generate(&large, &mut stop, &|| false).unwrap().sequences;
    for (i, sequence) in all.iter().enumerate() {
        let len = if i.is_multiple_of(3) { i % 70 + 1 } else { 155 };
        assert_eq!((sequence.tokens.len(), sequence.logprobs.len()), (len, len), "{i}");
    }
    let few = generate(&sampler, &Generate { num_samples: 8, ..large });
    for (few, all) in few.sequences.iter().zip(&all) {
        let len = all.tokens.len();
        assert_eq!((&few.tokens[..len], &few.logprobs[..len]), (&all.tokens[..], &all.logprobs[..]));
    }
}

#[test]
fn one_seed_gives_one_text_for_any_number_of_threads() {
    let run = |threads, seed| {
        in_pool(threads, || {
            let sampler = with_noise(&ModelConfig::nano(), 4).sampler();
            generate(&sampler, &Generate { seed, prompt_logprobs: true, ..request(&prompt(300)) })
        })
    };
    let one = run(1, 11);
    assert_eq!(run(1, 11), one);
    assert_eq!(run(2, 11), one);
    assert_ne!(run(1, 12).sequences, one.sequences);
}

#[test]
fn a_stop_token_ends_a_sequence_and_belongs_to_it() {
    let sampler = with_noise(&tiny(), 2).sampler();
    let free = generate(&sampler, &request(&prompt(5))).sequences.remove(0);
    let stop = free.tokens[7];
    let first = free.tokens.iter().position(|&t| t == stop).unwrap();
    let req = Generate { stop_tokens: vec![stop], ..request(&prompt(5)) };
    let sequence = generate(&sampler, &req).sequences.remove(0);
    assert_eq!((&sequence.tokens[..], sequence.stopped), (&free.tokens[..=first], true));
}

#[test]
fn a_sequence_ends_at_the_largest_length_of_the_model() {
    let sampler = with_noise(&tiny(), 2).sampler();
    let sequence = generate(&sampler, &request(&prompt(155))).sequences.remove(0);
    assert_eq!((sequence.tokens.len(), sequence.stopped), (5, false));
    assert!(generate(&sampler, &request(&prompt(160))).sequences[0].tokens.is_empty());
    let none = generate(&sampler, &Generate { max_tokens: 0, ..request(&prompt(3)) });
    assert!(none.sequences[0].tokens.is_empty());
}

#[test]
fn cancelling_ends_generation_before_the_next_token() {
    let sampler = with_noise(&tiny(), 2).sampler();
    let seen = AtomicUsize::new(0);
    let mut stop = |_: usize, tokens: &[u32]| {
        seen.store(tokens.len(), Ordering::Relaxed);
        false
    };
    let cancelled = || seen.load(Ordering::Relaxed) == 4;
    let error = sampler.generate(&request(&prompt(3)), &mut stop, &cancelled).unwrap_err();
    assert_eq!((error.as_str(), seen.into_inner()), ("cancelled", 4));
}

/// Submits a request from a thread of its own, which may generate for other requests, too.
fn submit(
    sampler: &Arc<Sampler>,
    req: Generate,
    stop: impl FnMut(usize, &[u32]) -> bool + Send + 'static,
) -> Receiver<Result<Generated, String>> {
    let (send, receive) = bounded(1);
    let sampler = sampler.clone();
    std::thread::spawn(move || {
        sampler.submit(&req, Box::new(stop), || false, move |result| drop(send.send(result)), &Endless);
    });
    receive
}

/// A time slice that is never over.
pub(super) struct Endless;

impl TimeSlice for Endless {
    fn is_over(&self) -> bool {
        false
    }

    fn pause(&self, rest: Rest) {
        rest(self);
    }
}

/// A time slice of one step, which keeps the rest of the work.
#[derive(Default)]
struct OneStep(RefCell<Option<Rest>>);

impl TimeSlice for OneStep {
    fn is_over(&self) -> bool {
        true
    }

    fn pause(&self, rest: Rest) {
        assert!(self.0.replace(Some(rest)).is_none(), "work pauses once in a slice");
    }
}

/// Runs one step of some work on this thread. Returns the rest, if there is one.
fn one_step(work: impl FnOnce(&dyn TimeSlice)) -> Option<Rest> {
    let slice = OneStep::default();
    work(&slice);
    slice.0.into_inner()
}

/// Begins a request that pauses after every step. Returns the rest, if this request is the first one of its batch.
fn begin(
    sampler: &Arc<Sampler>,
    req: &Generate,
    cancelled: &Arc<AtomicBool>,
    stop: impl FnMut(usize, &[u32]) -> bool + Send + 'static,
) -> (Option<Rest>, Receiver<Result<Generated, String>>) {
    let (send, receive) = bounded(1);
    let cancelled = cancelled.clone();
    let rest = one_step(|slice| {
        let cancelled = move || cancelled.load(Ordering::Relaxed);
        sampler.submit(req, Box::new(stop), cancelled, move |result| drop(send.send(result)), slice);
    });
    (rest, receive)
}

#[test]
fn samples_that_pause_after_every_step_get_what_they_get_without_a_pause() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let first = Generate { num_samples: 3, ..request(&prompt(5)) };
    let second = Generate { seed: 12, max_tokens: 20, ..request(&prompt(33)) };
    let never = Arc::default();
    let (mut rest, first_result) = begin(&sampler, &first, &never, |_, _| false);
    let mut second_result = None;
    let mut steps = 0;
    while let Some(work) = rest {
        assert!(first_result.is_empty(), "a request that is done has no rest");
        steps += 1;
        if steps == 5 {
            let (none, result) = begin(&sampler, &second, &never, |_, _| false);
            assert!(none.is_none(), "it joins the batch of the first one, which is paused");
            second_result = Some(result);
        }
        rest = one_step(work);
    }
    assert_eq!(steps, 40, "a step for each token; the first pause is between the prompt and the samples");
    assert_eq!(first_result.recv().unwrap().unwrap(), generate(&sampler, &first));
    assert_eq!(second_result.unwrap().recv().unwrap().unwrap(), generate(&sampler, &second));
}

#[test]
fn a_request_that_is_cancelled_while_it_is_paused_ends_with_the_next_step_and_others_go_on() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let (first, second) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let (rest, first_result) = begin(&sampler, &request(&prompt(5)), &first, |_, _| false);
    let (_, second_result) = begin(&sampler, &request(&prompt(9)), &second, |_, _| false);
    let rest = one_step(rest.unwrap());
    first.store(true, Ordering::Relaxed);
    assert!(first_result.is_empty());
    let mut rest = one_step(rest.unwrap());
    assert_eq!(first_result.try_recv().unwrap().unwrap_err(), "cancelled");
    while let Some(work) = rest {
        rest = one_step(work);
    }
    assert_eq!(second_result.recv().unwrap().unwrap(), generate(&sampler, &request(&prompt(9))));
}

#[test]
fn a_panic_after_a_pause_ends_only_the_requests_of_the_batch() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let other = Arc::new(with_noise(&tiny(), 3).sampler());
    let never = Arc::default();
    let (rest, broken) = begin(&sampler, &request(&prompt(5)), &never, |_, tokens| {
        assert!(tokens.len() < 2, "a broken closure");
        false
    });
    let (other_rest, of_other) = begin(&other, &request(&prompt(5)), &never, |_, _| false);
    let (_, joined) = begin(&sampler, &request(&prompt(5)), &never, |_, _| false);
    let rest = one_step(rest.unwrap()).unwrap();
    let panicked = std::thread::spawn(move || drop(one_step(rest))).join();
    assert!(panicked.is_err() && broken.recv().is_err() && joined.recv().is_err());
    other_rest.unwrap()(&Endless);
    assert_eq!(of_other.recv().unwrap().unwrap(), generate(&other, &request(&prompt(5))));
    let later = submit(&sampler, request(&prompt(5)), |_, _| false);
    assert_eq!(later.recv().unwrap().unwrap(), generate(&sampler, &request(&prompt(5))));
}

#[test]
fn dropping_a_paused_batch_drops_its_requests_and_those_that_have_joined() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let never = Arc::default();
    let (rest, first) = begin(&sampler, &request(&prompt(5)), &never, |_, _| false);
    let (_, joined) = begin(&sampler, &request(&prompt(5)), &never, |_, _| false);
    drop(rest);
    assert!(first.recv().is_err() && joined.recv().is_err());
    assert_eq!(Arc::strong_count(&sampler), 1, "nothing keeps the sampler");
    let later = submit(&sampler, request(&prompt(5)), |_, _| false);
    assert_eq!(later.recv().unwrap().unwrap(), generate(&sampler, &request(&prompt(5))));
}

#[test]
fn requests_that_join_while_others_run_get_what_they_get_alone() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let requests: Vec<Generate> = (1..24)
        .map(|i| Generate { seed: i, num_samples: 1 + i as usize % 3, ..request(&prompt(3 * i as usize)) })
        .collect();
    let alone: Vec<Generated> = requests.iter().map(|req| generate(&sampler, req)).collect();
    // The first request goes on until the others have joined.
    let (joined, all_joined) = bounded(1);
    let first = submit(&sampler, request(&prompt(5)), move |_, tokens| {
        if tokens.len() == 3 {
            let _ = all_joined.recv();
        }
        false
    });
    let others: Vec<_> = requests.into_iter().map(|req| submit(&sampler, req, |_, _| false)).collect();
    joined.send(()).unwrap();
    assert_eq!(first.recv().unwrap().unwrap(), generate(&sampler, &request(&prompt(5))));
    for (other, alone) in others.iter().zip(alone) {
        assert_eq!(other.recv().unwrap().unwrap(), alone);
    }
}

#[test]
fn after_a_panic_requests_of_the_batch_end_and_later_ones_are_generated() {
    let sampler = Arc::new(with_noise(&tiny(), 2).sampler());
    let broken = submit(&sampler, request(&prompt(5)), |_, _| panic!("a broken closure"));
    assert!(broken.recv().is_err(), "the result of a request that panicked");
    let later = submit(&sampler, request(&prompt(5)), |_, _| false);
    assert_eq!(later.recv().unwrap().unwrap(), generate(&sampler, &request(&prompt(5))));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let sampler = with_noise(&tiny(), 2).sampler();
    let refused = |req: &Generate| sampler.generate(req, &mut |_, _| false, &|| false).unwrap_err();
    assert!(refused(&request(&[])).contains("empty"));
    assert!(refused(&request(&[17])).contains("token id 17"));
    assert!(refused(&request(&prompt(161))).contains("at most 160"));
    assert!(refused(&Generate { temperature: f32::NAN, ..request(&[1]) }).contains("temperature"));
    assert!(refused(&Generate { temperature: -1.0, ..request(&[1]) }).contains("temperature"));
    assert!(refused(&Generate { top_p: 1.5, ..request(&[1]) }).contains("top_p"));
}

#[test]
fn an_untrained_adapter_samples_like_the_base_and_never_draws_an_unused_id() {
    let base = Arc::new(Weights::seeded(&ModelConfig::nano(), 1));
    let trainer = Trainer::new(base.clone(), LoraSpec { train_mlp: false, ..everything(8) });
    let fresh = trainer.sampler();
    let req = Generate { max_tokens: 400, ..request(&prompt(9)) };
    let untrained = Sampler::base(base, Arc::default());
    let (a, b) = (generate(&fresh, &req), generate(&untrained, &req));
    assert_eq!(a, b);
    let spec = LoraSpec { train_mlp: false, ..everything(8) };
    let merged = Sampler::adapted(&spec, trainer.params().to_vec(), &untrained);
    assert_eq!(a, generate(&merged, &req), "with what it shares with the base, too");
    assert!(a.sequences[0].tokens.iter().all(|&t| t <= 256));
}

#[test]
fn targets_alternatives_and_likeliest_tokens_agree_with_the_scores_of_the_prompt() {
    let sampler = with_noise(&tiny(), 2).sampler();
    let prompt = prompt(6);
    // Each token of the prompt is a target at its own position.
    let targets: Vec<(usize, u32)> = prompt[1..].iter().copied().enumerate().collect();
    let req = Generate {
        prompt_logprobs: true,
        topk_prompt_logprobs: 2,
        topk_sample_logprobs: 2,
        alternatives: 3,
        targets,
        temperature: 0.0,
        max_tokens: 4,
        ..request(&prompt)
    };
    let generated = generate(&sampler, &req);
    let own: Vec<f32> = generated.prompt_logprobs.unwrap().into_iter().flatten().collect();
    assert_eq!(generated.targets, own);
    // At temperature 0 the alternatives are the likeliest tokens.
    let top = generated.topk_prompt_logprobs.unwrap();
    let likeliest: Vec<(u32, f32)> = top[1..].iter().flat_map(|it| [it.as_ref().unwrap()[0]; 3]).collect();
    let close = |a: &[(u32, f32)], b: &[(u32, f32)]| {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-5), "{a:?} {b:?}");
    };
    close(&generated.alternatives, &likeliest);
    let sequence = &generated.sequences[0];
    let drawn: Vec<_> = sequence.tokens.iter().copied().zip(sequence.logprobs.iter().copied()).collect();
    close(&sequence.top.iter().map(|it| it[0]).collect::<Vec<_>>(), &drawn);
    assert!(sequence.top.iter().all(|it| it.len() == 2 && it[1].1 <= it[0].1));
    // Reporting more does not change the sequences.
    let plain = Generate { alternatives: 0, temperature: 1.0, ..req.clone() };
    let answer = |it: &Generate| generate(&sampler, it).sequences;
    assert_eq!(answer(&Generate { alternatives: 3, ..plain.clone() }), answer(&plain));
}
