//! Tests of the breaker: tables of steps.

use std::time::Duration;

use super::Outcome::{Failure, Neutral, Success};
use super::*;

/// One step of a test.
enum Step {
    /// This number of seconds passes.
    Pass(u64),
    /// A request is admitted.
    Admit,
    /// A request is refused, and the next trial is in this number of seconds. `None`: the time is not known.
    Refuse(Option<u64>),
    /// The request in flight with this index ends. The oldest request has index 0.
    End(usize, Outcome),
}

use Step::{Admit, End, Pass, Refuse};

#[track_caller]
fn play(name: &str, limits: CircuitBreaker, steps: &[Step]) {
    let mut circuit = Circuit::new(limits);
    let (mut now, mut in_flight) = (Instant::now(), Vec::new());
    for (n, step) in steps.iter().enumerate() {
        match step {
            Pass(seconds) => now += Duration::from_secs(*seconds),
            Admit => match circuit.admit(now) {
                Ok(epoch) => in_flight.push(epoch),
                Err(open) => panic!("{name}, step {n}: refused, {open:?}"),
            },
            Refuse(seconds) => {
                let until = seconds.map(|it| now + Duration::from_secs(it));
                assert_eq!(circuit.admit(now), Err(Open { until }), "{name}, step {n}");
            }
            End(which, outcome) => circuit.record(in_flight.remove(*which), *outcome, now),
        }
    }
}

const TWO: CircuitBreaker = CircuitBreaker { failures: 2, reset: Duration::from_secs(30), trials: 1 };

#[test]
fn the_circuit_follows_its_table() {
    let opened = || vec![Admit, End(0, Failure), Admit, End(0, Failure)];
    let after = |rest: Vec<Step>| opened().into_iter().chain(rest).collect::<Vec<_>>();
    let table = [
        ("failures in a row open it", after(vec![Refuse(Some(30))])),
        ("a success in between resets the count", {
            vec![Admit, End(0, Failure), Admit, End(0, Success), Admit, End(0, Failure), Admit]
        }),
        ("it stays open until the reset time", after(vec![Pass(29), Refuse(Some(1)), Pass(1), Admit])),
        (
            "one trial at a time is admitted while it is half-open",
            after(vec![Pass(30), Admit, Refuse(None), Pass(99), Refuse(None)]),
        ),
        (
            "a trial that succeeds closes it",
            after(vec![Pass(30), Admit, End(0, Success), Admit, Admit, Admit]),
        ),
        ("after closing it counts from 0", {
            after(vec![Pass(30), Admit, End(0, Success), Admit, End(0, Failure), Admit])
        }),
        ("a trial that fails opens it for the whole time", {
            after(vec![Pass(45), Admit, End(0, Failure), Refuse(Some(30)), Pass(30), Admit])
        }),
        ("an outcome from before it opened cannot close it", {
            vec![
                Admit,
                Admit,
                Admit,
                End(0, Failure),
                End(0, Failure),
                Pass(30),
                Admit,
                End(0, Success),
                Refuse(None),
            ]
        }),
        ("a failure from before it opened cannot open it again", {
            vec![
                Admit,
                Admit,
                Admit,
                End(0, Failure),
                End(0, Failure),
                Pass(30),
                Admit,
                End(0, Failure),
                Refuse(None),
            ]
        }),
        ("a failure from before it closed does not count", {
            let mut steps = vec![Admit];
            steps.extend(after(vec![Pass(30), Admit]));
            // The first request is still in flight at index 0, so the requests of `after` are at index 1.
            let ends = steps.iter_mut().filter_map(|step| if let End(n, _) = step { Some(n) } else { None });
            ends.for_each(|index| *index = 1);
            steps.extend([End(1, Success), End(0, Failure), Admit, End(0, Failure), Admit]);
            steps
        }),
    ];
    for (name, steps) in table {
        play(name, TWO, &steps);
    }
}

#[test]
fn only_failures_of_the_server_count() {
    // Ending of the attempt; outcome; outcome if the server may hold the request.
    let table = [
        (Ending::Answered(200), Success, Success),
        (Ending::Answered(429), Success, Success),
        (Ending::Answered(499), Success, Success),
        (Ending::Answered(500), Failure, Failure),
        (Ending::Answered(503), Failure, Failure),
        (Ending::TooLarge, Success, Success),
        (Ending::TimedOut(Phase::Resolve), Failure, Failure),
        (Ending::TimedOut(Phase::Connect), Failure, Failure),
        (Ending::TimedOut(Phase::FirstByte), Failure, Neutral),
        (Ending::TimedOut(Phase::Exchange), Failure, Neutral),
        (Ending::Broken, Failure, Failure),
        (Ending::NotSent, Neutral, Neutral),
    ];
    for (ending, outcome, if_held) in table {
        assert_eq!((Outcome::of(ending, false), Outcome::of(ending, true)), (outcome, if_held), "{ending:?}");
    }
}

#[test]
fn several_trials_are_admitted_if_so_configured() {
    let limits = CircuitBreaker { failures: 1, trials: 2, ..TWO };
    play("two", limits, &[Admit, End(0, Failure), Pass(30), Admit, Admit, Refuse(None)]);
}

#[test]
fn five_failures_open_it_for_thirty_seconds_by_default() {
    let mut steps: Vec<_> = (0..4).flat_map(|_| [Admit, End(0, Failure)]).collect();
    steps.extend([Admit, Admit, End(0, Failure), Refuse(Some(30)), Pass(30), Admit, Refuse(None)]);
    play("default", CircuitBreaker::default(), &steps);
}

#[test]
fn a_reset_time_beyond_the_range_of_the_clock_never_passes() {
    let limits = CircuitBreaker { failures: 1, reset: Duration::MAX, trials: 1 };
    play("endless", limits, &[Admit, End(0, Failure), Refuse(None), Pass(1_000_000), Refuse(None)]);
}

#[test]
fn a_trial_with_a_neutral_outcome_makes_room_for_another() {
    let steps = [
        Admit,
        End(0, Failure),
        Admit,
        End(0, Failure),
        Pass(30),
        Admit,
        Refuse(None),
        End(0, Neutral),
        Admit,
    ];
    play("half-open", TWO, &steps);
    let steps = [Admit, End(0, Failure), Admit, End(0, Neutral), Admit, End(0, Failure), Refuse(Some(30))];
    play("closed", TWO, &steps);
}
