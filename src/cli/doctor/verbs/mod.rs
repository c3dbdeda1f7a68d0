//! Runs one check for each method of the clients and each option on a server, one after the other. The checks are in
//! the modules `service`, `training`, `sampling`, `rest` and `admin`. `context` has what they share; `judge` decides
//! from an error if the tested method is broken or only not offered by the server.

mod admin;
mod context;
mod judge;
mod rest;
mod sampling;
mod service;
mod training;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use context::{Context, Finding, Found, Trouble};
use judge::{Need, Refusal, judge};
use tinkex::types::ServerCapabilities;
use tinkex::{Error, ErrorKind, ServiceClientBuilder};

pub(crate) use judge::Mark;

/// One check. To add a check, add it to a list of checks in the module of its client.
pub(crate) struct Check {
    /// The client that has the method.
    pub(crate) client: &'static str,
    /// The method; if an option is checked, followed by a comma and the option.
    pub(crate) name: &'static str,
    need: Need,
    run: fn(&Context) -> Found,
}

fn core(name: &'static str, run: fn(&Context) -> Found) -> Check {
    Check { client: "", name, need: Need::Core, run }
}

fn endpoint(name: &'static str, run: fn(&Context) -> Found) -> Check {
    Check { client: "", name, need: Need::Endpoint, run }
}

fn option(name: &'static str, called: &'static [&'static str], run: fn(&Context) -> Found) -> Check {
    Check { client: "", name, need: Need::Option(called), run }
}

fn probe(name: &'static str, run: fn(&Context) -> Found) -> Check {
    Check { client: "", name, need: Need::Probe, run }
}

/// All checks in the order in which they run: later checks use objects (checkpoints, clients) that earlier checks made.
pub(crate) fn checks() -> Vec<Check> {
    let of = |client, checks: Vec<Check>| checks.into_iter().map(move |it| Check { client, ..it });
    let mut all = Vec::new();
    all.extend(of("ServiceClient", service::beginning()));
    all.extend(of("TrainingClient", training::checks()));
    all.extend(of("ServiceClient", service::losses()));
    all.extend(of("ServiceClient", service::from_checkpoints()));
    all.extend(of("SamplingClient", sampling::checks()));
    all.extend(of("RestClient", rest::checks()));
    all.extend(of("AdminClient", admin::checks()));
    all.extend(of("RestClient", rest::cleaning()));
    all.extend(of("ServiceClient", service::end()));
    all
}

/// Result of one check.
pub(crate) struct Line {
    pub(crate) client: &'static str,
    pub(crate) name: &'static str,
    pub(crate) mark: Mark,
    pub(crate) reason: String,
    pub(crate) took: Duration,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = self.mark.name();
        let line =
            format!("  {:<52} {mark:<12} {:>5.1} s  {}", self.name, self.took.as_secs_f64(), self.reason);
        f.write_str(line.trim_end())
    }
}

/// Results of all checks.
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
}

impl Report {
    pub(crate) fn count(&self, mark: Mark) -> usize {
        self.lines.iter().filter(|it| it.mark == mark).count()
    }
}

/// Shows the number of checks with each mark.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ok, absent, broken] = [Mark::Ok, Mark::NotOffered, Mark::Broken].map(|it| self.count(it));
        write!(f, "doctor: {ok} ok, {absent} not offered, {broken} broken")
    }
}

/// Examines a server.
///
/// `connect` makes the builder of a client. `base_model` is the model to use, `None` for the first in the server's
/// list. `limit` bounds each check. `on_line` is called with the result of each check as soon as the check ends.
///
/// # Errors
/// Invalid settings, a server that cannot be reached or refuses the key, or no model to use.
pub(crate) fn examine(
    connect: impl Fn() -> ServiceClientBuilder + Send + Sync + 'static,
    base_model: Option<String>,
    limit: Duration,
    mut on_line: impl FnMut(&Line),
) -> Result<Report, String> {
    // Set the client's time limits below the limit of the check, so that the client reports an error first: its errors
    // are more precise.
    let timeout = limit * 4 / 5;
    let connect = move || {
        connect().timeouts(|timeouts| {
            timeouts.submit = timeout / 2;
            timeouts.exchange = timeout / 2;
            timeouts.poll = timeout / 2;
            timeouts.silence = timeout;
            timeouts.operation = timeout;
        })
    };
    let service = connect().build().map_err(|it| it.to_string())?;
    let base_model = choose(base_model, service.get_server_capabilities())?;
    let context = Context::new(Box::new(connect), service, base_model);
    let mut report = Report { lines: Vec::new() };
    let mut marks: BTreeMap<&'static str, Mark> = BTreeMap::new();
    for check in checks() {
        let started = Instant::now();
        let found = within(limit, &context, check.run);
        let (mark, reason) = conclude(check.need, found, &marks);
        if mark == Mark::Broken {
            context.give_up_training();
        }
        marks.insert(check.name, mark);
        let line = Line { client: check.client, name: check.name, mark, reason, took: started.elapsed() };
        on_line(&line);
        report.lines.push(line);
    }
    Ok(report)
}

/// Chooses the model to use. Fails if all checks would fail: no connection, a refused key, or no model.
fn choose(named: Option<String>, offered: Result<ServerCapabilities, Error>) -> Result<String, String> {
    const HINT: &str = "set TINKEX_BASE_MODEL to a model of this server";
    match (named, offered) {
        (_, Err(error)) if error.is_connection() || *error.kind() == ErrorKind::Auth => {
            Err(error.to_string())
        }
        (Some(name), _) => Ok(name),
        (None, Err(error)) => Err(format!("{HINT}: {error}")),
        (None, Ok(models)) => {
            let mut names = models.supported_models.into_iter().filter_map(|it| it.model_name);
            names.next().ok_or_else(|| format!("{HINT}: its list of models is empty"))
        }
    }
}

/// Runs a check on a new thread and waits for it until the time limit. A thread that takes longer is not stopped.
fn within(limit: Duration, context: &Arc<Context>, run: fn(&Context) -> Found) -> Found {
    let (done, result) = mpsc::channel();
    let context = context.clone();
    let check = move || {
        let found = catch_unwind(AssertUnwindSafe(|| run(&context)));
        // Ignore the error: after the time limit nothing receives the result.
        drop(done.send(found));
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".into()).spawn(check) {
        return Err(Trouble::Wrong(format!("cannot start a thread: {error}")));
    }
    match result.recv_timeout(limit) {
        Ok(Ok(found)) => found,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Trouble::Wrong(format!("panicked: {text}")))
        }
        Err(_) => Err(Trouble::Wrong(format!("no result within {} s", limit.as_secs()))),
    }
}

/// Mark of a check and the reason for it, in one line.
fn conclude(need: Need, found: Found, before: &BTreeMap<&'static str, Mark>) -> (Mark, String) {
    let (mark, reason) = match found {
        Ok(Finding::Fine(text)) => (Mark::Ok, text),
        Ok(Finding::Ignored(text)) => (Mark::NotOffered, text),
        Err(Trouble::Wrong(text)) => (Mark::Broken, text),
        Err(Trouble::Needs(name)) => {
            // If the server does not offer what this check needs, the result is “not offered”, too.
            let mark = match before.get(name) {
                Some(Mark::NotOffered) => Mark::NotOffered,
                _ => Mark::Broken,
            };
            (mark, format!("needs {name}"))
        }
        Err(Trouble::Refused(error)) => {
            let refusal = Refusal::of(&error);
            (judge(need, &refusal), refusal.message)
        }
    };
    (mark, one_line(&reason))
}

fn one_line(text: &str) -> String {
    const LONGEST: usize = 120;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use tinkex::testing::{Act, FakeServer};

    use super::*;

    #[test]
    fn a_check_that_panics_or_hangs_is_broken() {
        let connect = || FakeServer::new().in_memory();
        let service = connect().build().unwrap();
        let context = Context::new(Box::new(connect), service, "fake/model".into());
        let reason = |limit, run: fn(&Context) -> Found| {
            let (mark, reason) = conclude(Need::Endpoint, within(limit, &context, run), &BTreeMap::new());
            assert_eq!(mark, Mark::Broken);
            reason
        };
        assert_eq!(reason(Duration::from_secs(60), |_| panic!("ouch")), "panicked: ouch");
        let hangs: fn(&Context) -> Found = |_| {
            loop {
                std::thread::park();
            }
        };
        assert_eq!(reason(Duration::from_millis(20), hangs), "no result within 0 s");
    }

    #[test]
    fn a_cause_that_would_fail_every_check_ends_the_examination() {
        let limit = Duration::from_secs(60);
        let path = "/api/v1/get_server_capabilities";
        for (act, named, expected) in [
            (Act::Refuse(limit), Some("m"), "connection refused"),
            (Act::status(401, "who are you?"), Some("m"), "who are you?"),
            (Act::status(404, ""), None, "TINKEX_BASE_MODEL"),
            (Act::status(200, r#"{"supported_models": []}"#), None, "TINKEX_BASE_MODEL"),
        ] {
            let server = FakeServer::new();
            server.always(path, act);
            let Err(error) = examine(move || server.in_memory(), named.map(String::from), limit, |_| {})
            else {
                panic!("the examination did not fail: {expected}");
            };
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_check_that_needs_something_not_offered_is_not_offered() {
        let before = BTreeMap::from([("publish", Mark::NotOffered), ("save_state", Mark::Broken)]);
        let mark = |name| conclude(Need::Endpoint, Err(Trouble::Needs(name)), &before);
        assert_eq!(mark("publish"), (Mark::NotOffered, "needs publish".into()));
        assert_eq!(mark("save_state"), (Mark::Broken, "needs save_state".into()));
    }

    #[test]
    fn a_reason_is_cut_to_one_line() {
        let line = one_line(&"a\n\tb ".repeat(1000));
        assert!(line.starts_with("a b a b") && line.ends_with('…') && line.chars().count() == 121, "{line}");
    }
}
