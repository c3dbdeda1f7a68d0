//! Tries every verb and option of the crate on a server, one check after the other.

mod admin;
mod judge;
mod patient;
mod rest;
mod sampling;
mod service;
mod training;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use judge::{Need, Refusal, judge};
use patient::{Finding, Found, Patient, Trouble};
use tinkex::types::ServerCapabilities;
use tinkex::{Error, ErrorKind, ServiceClientBuilder};

pub(crate) use judge::Mark;

/// One thing that is tried. To have something more tried, add one to the table of its client.
pub(crate) struct Check {
    /// The client that has the verb.
    pub(crate) client: &'static str,
    /// The verb, and behind a comma the option.
    pub(crate) name: &'static str,
    need: Need,
    run: fn(&Patient) -> Found,
}

fn core(name: &'static str, run: fn(&Patient) -> Found) -> Check {
    Check { client: "", name, need: Need::Core, run }
}

fn endpoint(name: &'static str, run: fn(&Patient) -> Found) -> Check {
    Check { client: "", name, need: Need::Endpoint, run }
}

fn option(name: &'static str, called: &'static [&'static str], run: fn(&Patient) -> Found) -> Check {
    Check { client: "", name, need: Need::Option(called), run }
}

fn probe(name: &'static str, run: fn(&Patient) -> Found) -> Check {
    Check { client: "", name, need: Need::Probe, run }
}

/// Everything that is tried, in this order: later checks use what earlier ones made.
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

/// How one check ended.
pub(crate) struct Line {
    pub(crate) client: &'static str,
    pub(crate) name: &'static str,
    pub(crate) mark: Mark,
    pub(crate) reason: String,
    pub(crate) took: Duration,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Ok => "ok",
            Mark::NotOffered => "not offered",
            Mark::Broken => "broken",
        };
        let line =
            format!("  {:<52} {mark:<12} {:>5.1} s  {}", self.name, self.took.as_secs_f64(), self.reason);
        f.write_str(line.trim_end())
    }
}

/// Everything that was found.
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
}

impl Report {
    pub(crate) fn count(&self, mark: Mark) -> usize {
        self.lines.iter().filter(|it| it.mark == mark).count()
    }
}

/// The last line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ok, absent, broken] = [Mark::Ok, Mark::NotOffered, Mark::Broken].map(|it| self.count(it));
        write!(f, "doctor: {ok} ok, {absent} not offered, {broken} broken")
    }
}

/// Examines a server.
///
/// `connect` gives the settings of a client of it; `base_model` is the model to use, or none for the first that the
/// server names; no check may take longer than `limit`. `tell` hears of every line as soon as it is known.
///
/// # Errors
/// Why there is nothing to examine: bad settings, a server that cannot be reached or refuses the key, no model.
pub(crate) fn examine(
    connect: impl Fn() -> ServiceClientBuilder + Send + Sync + 'static,
    base_model: Option<String>,
    limit: Duration,
    mut tell: impl FnMut(&Line),
) -> Result<Report, String> {
    // The client gives up before the check is given up, because its errors say more.
    let patience = limit * 4 / 5;
    let connect = move || {
        connect().timeouts(|it| {
            it.submit = patience / 2;
            it.exchange = patience / 2;
            it.poll = patience / 2;
            it.silence = patience;
            it.operation = patience;
        })
    };
    let service = connect().build().map_err(|it| it.to_string())?;
    let base_model = choose(base_model, service.get_server_capabilities())?;
    let patient = Patient::new(Box::new(connect), service, base_model);
    let mut report = Report { lines: Vec::new() };
    let mut marks: BTreeMap<&'static str, Mark> = BTreeMap::new();
    for check in checks() {
        let started = Instant::now();
        let found = within(limit, &patient, check.run);
        let (mark, reason) = conclude(check.need, found, &marks);
        if mark == Mark::Broken {
            patient.give_up_training();
        }
        marks.insert(check.name, mark);
        let line = Line { client: check.client, name: check.name, mark, reason, took: started.elapsed() };
        tell(&line);
        report.lines.push(line);
    }
    Ok(report)
}

/// The model to use. Where every check would fail for the same reason, that is said once.
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
            names.next().ok_or_else(|| format!("{HINT}: it names none"))
        }
    }
}

/// Runs a check on a thread of its own, which is left behind if it does not come back.
fn within(limit: Duration, patient: &Arc<Patient>, run: fn(&Patient) -> Found) -> Found {
    let (done, result) = mpsc::channel();
    let patient = patient.clone();
    let check = move || {
        let found = catch_unwind(AssertUnwindSafe(|| run(&patient)));
        // Nobody listens any more if the time was over.
        drop(done.send(found));
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".into()).spawn(check) {
        return Err(Trouble::Wrong(format!("no thread: {error}")));
    }
    match result.recv_timeout(limit) {
        Ok(Ok(found)) => found,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Trouble::Wrong(format!("panicked: {text}")))
        }
        Err(_) => Err(Trouble::Wrong(format!("nothing within {} s", limit.as_secs()))),
    }
}

/// The mark of a check, and the reason for it in one line.
fn conclude(need: Need, found: Found, before: &BTreeMap<&'static str, Mark>) -> (Mark, String) {
    let (mark, reason) = match found {
        Ok(Finding::Fine(text)) => (Mark::Ok, text),
        Ok(Finding::Ignored(text)) => (Mark::NotOffered, text),
        Err(Trouble::Wrong(text)) => (Mark::Broken, text),
        Err(Trouble::Needs(name)) => {
            // What rests on something that is not offered cannot be offered either.
            let mark = match before.get(name) {
                Some(Mark::NotOffered) => Mark::NotOffered,
                _ => Mark::Broken,
            };
            (mark, format!("needs {name}"))
        }
        Err(Trouble::Refused(error)) => {
            let refusal = Refusal::of(&error);
            (judge(need, &refusal), refusal.words)
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

#[cfg(test)]
mod tests {
    use tinkex::testing::{Act, FakeServer};

    use super::*;

    #[test]
    fn a_check_that_panics_or_does_not_come_back_is_broken() {
        let connect = || FakeServer::new().in_memory();
        let service = connect().build().unwrap();
        let patient = Patient::new(Box::new(connect), service, "fake/model".into());
        let reason = |limit, run: fn(&Patient) -> Found| {
            let (mark, reason) = conclude(Need::Endpoint, within(limit, &patient, run), &BTreeMap::new());
            assert_eq!(mark, Mark::Broken);
            reason
        };
        assert_eq!(reason(Duration::from_secs(60), |_| panic!("ouch")), "panicked: ouch");
        let hangs: fn(&Patient) -> Found = |_| {
            loop {
                std::thread::park();
            }
        };
        assert_eq!(reason(Duration::from_millis(20), hangs), "nothing within 0 s");
    }

    #[test]
    fn what_would_fail_every_check_is_said_once() {
        let limit = Duration::from_secs(60);
        let path = "/api/v1/get_server_capabilities";
        for (act, named, said) in [
            (Act::Refuse(limit), Some("m"), "connection refused"),
            (Act::status(401, "who are you?"), Some("m"), "who are you?"),
            (Act::status(404, ""), None, "TINKEX_BASE_MODEL"),
            (Act::status(200, r#"{"supported_models": []}"#), None, "TINKEX_BASE_MODEL"),
        ] {
            let server = FakeServer::new();
            server.always(path, act);
            let Err(error) = examine(move || server.in_memory(), named.map(String::from), limit, |_| {})
            else {
                panic!("there is nothing to examine: {said}");
            };
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_rests_on_something_that_is_not_offered_is_not_offered_either() {
        let before = BTreeMap::from([("publish", Mark::NotOffered), ("save_state", Mark::Broken)]);
        let mark = |name| conclude(Need::Endpoint, Err(Trouble::Needs(name)), &before);
        assert_eq!(mark("publish"), (Mark::NotOffered, "needs publish".into()));
        assert_eq!(mark("save_state"), (Mark::Broken, "needs save_state".into()));
    }

    #[test]
    fn a_reason_is_one_line_however_much_the_server_says() {
        let line = one_line(&"a\n\tb ".repeat(1000));
        assert!(line.starts_with("a b a b") && line.ends_with('…') && line.chars().count() == 121, "{line}");
    }
}
