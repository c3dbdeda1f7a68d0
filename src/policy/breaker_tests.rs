//! Tests of the breaker: tables of events and what comes of them.

use std::time::Duration;

use super::Outcome::{Failure, Nothing, Success};
use super::*;

/// What happens to a circuit, and what it should say.
enum Step {
    /// So many seconds pass.
    Pass(u64),
    /// Somebody asks and may try.
    Admit,
    /// Somebody asks and may not; in so many seconds perhaps.
    Refuse(Option<u64>),
    /// The oldest (0), second oldest (1), … try without an outcome ends.
    End(usize, Outcome),
}

use Step::{Admit, End, Pass, Refuse};

#[track_caller]
fn play(name: &str, limits: CircuitBreaker, steps: &[Step]) {
    let mut circuit = Circuit::new(limits);
    let (mut now, mut tries) = (Instant::now(), Vec::new());
    for (n, step) in steps.iter().enumerate() {
        match step {
            Pass(seconds) => now += Duration::from_secs(*seconds),
            Admit => match circuit.admit(now) {
                Ok(epoch) => tries.push(epoch),
                Err(open) => panic!("{name}, step {n}: refused, {open:?}"),
            },
            Refuse(seconds) => {
                let until = seconds.map(|it| now + Duration::from_secs(it));
                assert_eq!(circuit.admit(now), Err(Open { until }), "{name}, step {n}");
            }
            End(which, outcome) => circuit.record(tries.remove(*which), *outcome, now),
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
        ("a success in between forgets", {
            vec![Admit, End(0, Failure), Admit, End(0, Success), Admit, End(0, Failure), Admit]
        }),
        ("it stays open until the reset time", after(vec![Pass(29), Refuse(Some(1)), Pass(1), Admit])),
        (
            "one at a time tries while it is half-open",
            after(vec![Pass(30), Admit, Refuse(None), Pass(99), Refuse(None)]),
        ),
        (
            "a trial that succeeds closes it",
            after(vec![Pass(30), Admit, End(0, Success), Admit, Admit, Admit]),
        ),
        ("after closing it tolerates as much as before", {
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
            // The first of all is still under way, and so stands before the others.
            let ends = steps.iter_mut().filter_map(|it| if let End(n, _) = it { Some(n) } else { None });
            ends.for_each(|it| *it = 1);
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
    // How the attempt ended; what it says of the server; what it says if the server may hold the request.
    let table = [
        (Ending::Answered(200), Success, Success),
        (Ending::Answered(429), Success, Success),
        (Ending::Answered(499), Success, Success),
        (Ending::Answered(500), Failure, Failure),
        (Ending::Answered(503), Failure, Failure),
        (Ending::TooLarge, Success, Success),
        (Ending::TimedOut(Phase::Resolve), Failure, Failure),
        (Ending::TimedOut(Phase::Connect), Failure, Failure),
        (Ending::TimedOut(Phase::FirstByte), Failure, Nothing),
        (Ending::TimedOut(Phase::Exchange), Failure, Nothing),
        (Ending::Broken, Failure, Failure),
        (Ending::NotSent, Nothing, Nothing),
    ];
    for (ending, outcome, if_held) in table {
        assert_eq!((Outcome::of(ending, false), Outcome::of(ending, true)), (outcome, if_held), "{ending:?}");
    }
}

#[test]
fn several_trials_are_admitted_if_so_wished() {
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
fn a_reset_that_no_clock_can_hold_never_comes() {
    let limits = CircuitBreaker { failures: 1, reset: Duration::MAX, trials: 1 };
    play("endless", limits, &[Admit, End(0, Failure), Refuse(None), Pass(1_000_000), Refuse(None)]);
}

#[test]
fn a_trial_that_says_nothing_makes_room_for_another() {
    let steps = [
        Admit,
        End(0, Failure),
        Admit,
        End(0, Failure),
        Pass(30),
        Admit,
        Refuse(None),
        End(0, Nothing),
        Admit,
    ];
    play("nothing", TWO, &steps);
    let steps = [Admit, End(0, Failure), Admit, End(0, Nothing), Admit, End(0, Failure), Refuse(Some(30))];
    play("nothing while closed", TWO, &steps);
}
