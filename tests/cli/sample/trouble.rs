//! A server that answers with errors.

use std::sync::atomic::{AtomicUsize, Ordering};

use tinkex::testing::Act;

use super::Fake;

#[test]
fn a_server_that_answers_5xx_is_told_about_while_it_is_tried_again() {
    let fake = Fake::new("sample-5xx");
    let n = AtomicUsize::new(0);
    fake.server.script(move |seen| {
        let is_first = seen.path.ends_with("/client/config") && n.fetch_add(1, Ordering::Relaxed) == 0;
        is_first.then(|| Act::status(503, r#"{"detail":"starting"}"#).with_header("retry-after", "6"))
    });
    let (status, stdout, stderr) = fake.run(&["Hi"]);
    assert!(status == 0 && !stdout.is_empty(), "{stderr}");
    let expected =
        "warning: the server answers HTTP 503: starting; each request is tried again for up to 60 s\n";
    assert!(stderr.starts_with(expected) && !stderr.contains("; attempt "), "{stderr}");
}

#[test]
fn a_server_that_is_down_is_not_asked_for_its_models_after_that() {
    let fake = Fake::new("sample-down");
    fake.server.script(|seen| {
        let is_model = seen.path.ends_with("/create_session");
        is_model.then(|| Act::status(503, r#"{"detail":"down"}"#))
    });
    let (status, _, stderr) = fake.run(&["Hi", "--timeout", "2s"]);
    assert_eq!(status, 1, "{stderr}");
    assert_eq!(fake.server.requests_to("/api/v1/get_server_capabilities").len(), 0, "{stderr}");
}
