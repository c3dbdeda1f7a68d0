//! Downloads that fail, after which nothing half-written is used.

use std::time::Duration;

use super::*;

/// Fails a download and checks that the cache then has no file with tokens, no draft and no branch.
fn fails(hub: &Hub, options: &HubOptions) -> Error {
    let error = Bpe::download(&source(None), options).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(TOKEN) && !text.contains("hidden"), "{text}");
    assert!(text.contains("http"), "no URL: {text}");
    for file in hub.files() {
        let is_config = file.ends_with(CONFIG) || file.ends_with(SMALL_ETAG);
        assert!(is_config, "{file} after: {text}");
    }
    error
}

/// A hub whose answers `change` replaces: it gets the request and the regular answer.
fn changed(name: &str, change: impl Fn(&Seen, Answer) -> Act + Send + Sync + 'static) -> Hub {
    let hub = Hub::new(name);
    let (repo, place) = (hub.repo.clone(), hub.storage_listening.url());
    hub.server.script(move |seen| Some(change(seen, answer(&repo.lock(), seen, &place))));
    hub
}

/// A hub whose storage server answers with an act that `act` makes of the file.
fn stored(name: &str, act: impl Fn(Vec<u8>) -> Act + Send + Sync + 'static) -> Hub {
    let hub = Hub::new(name);
    let repo = hub.repo.clone();
    hub.storage.script(move |_| Some(act(repo.lock().files[TOKENIZER].clone())));
    hub
}

fn body(body: Vec<u8>) -> Answer {
    Answer::new(200).with_body(body)
}

#[test]
fn a_file_that_is_cut_longer_shorter_or_changed_is_not_used() {
    type Make = fn(Vec<u8>) -> Act;
    let cases: [(&str, Make, &str); 6] = [
        ("cut", |file| Act::Truncate(body(file)), "4 attempts"),
        ("shorter", |file| Act::Answer(body(file[1..].to_vec())), "but the hub states"),
        ("longer", |file| Act::Answer(body([&file[..], b" "].concat())), "but the hub states"),
        (
            "announced-shorter",
            |file| {
                let announced = (file.len() - 7).to_string();
                Act::Answer(body(file).with_header("Content-Length", announced))
            },
            "but the hub states",
        ),
        (
            "changed",
            |mut file| {
                let last = file.len() - 1;
                file[last] = b' ';
                Act::Answer(body(file))
            },
            "SHA-256",
        ),
        (
            "page",
            |_| Act::Answer(body(b"<!DOCTYPE html><title>Log in</title>".to_vec())),
            "an HTML page, \"Log in\" instead of JSON",
        ),
    ];
    for (name, act, problem) in cases {
        let hub = stored(name, act);
        let error = fails(&hub, &hub.options());
        let text = error.to_string();
        assert!(text.contains(problem) || name == "cut" && error.attempts() == Some(5), "{name}: {text}");
        assert!(text.contains(TOKENIZER), "{name}: {text}");
        // The configuration, which was downloaded before, stays; the tokens follow.
        let repo = hub.repo.clone();
        hub.storage.script(move |_| Some(Act::Answer(body(repo.lock().files[TOKENIZER].clone()))));
        check_later(&hub);
    }
}

fn check_later(hub: &Hub) {
    check(&hub.download(None).unwrap());
}

#[test]
fn a_small_file_that_is_not_json_is_not_used() {
    let hub = changed("not-json", |seen, answer| {
        let cut: &[u8] = b"{\"eos_token\": ";
        let is_config = seen.path.ends_with(CONFIG);
        let mut answer = answer;
        answer.headers.retain(|(name, _)| !is_config || name != "content-length");
        if is_config && seen.method == "GET" {
            Act::Answer(answer.with_body(cut))
        } else {
            Act::Answer(answer)
        }
    });
    let error = fails(&hub, &hub.options());
    assert!(error.to_string().contains("instead of JSON"), "{error}");
    assert!(hub.files().is_empty(), "{:?}", hub.files());
}

#[test]
fn a_gated_model_says_what_to_do_and_does_not_show_the_token() {
    let hub = changed("gated", |seen, _| {
        let said =
            format!("Access to org/name is restricted, {}", seen.header("authorization").unwrap_or("log in"));
        let answer = Answer::new(if seen.header("authorization").is_some() { 403 } else { 401 });
        Act::Answer(answer.with_header("X-Error-Code", "GatedRepo").with_header("X-Error-Message", said))
    });
    let error = fails(&hub, &hub.options().token(""));
    let text = error.to_string();
    assert_eq!(error.kind(), &ErrorKind::Auth);
    assert!(
        text.contains("set HF_TOKEN") && text.contains(&format!("{}/org/name", hub.listening.url())),
        "{text}"
    );
    let error = fails(&hub, &hub.options());
    assert_eq!(error.kind(), &ErrorKind::Permission);
    assert!(error.to_string().contains("is restricted"), "{error}");
    assert_eq!(hub.requests().len(), 2);
}

#[test]
fn a_refusal_of_the_storage_server_is_not_taken_for_one_of_the_hub() {
    let hub = stored("storage-refuses", |_| Act::status(403, "<Error><Code>AccessDenied</Code></Error>"));
    let error = fails(&hub, &hub.options());
    assert_eq!(error.http_status(), Some(403));
    assert!(
        error.to_string().contains("the storage server") && !error.to_string().contains("licence"),
        "{error}"
    );
}

#[test]
fn what_does_not_exist_is_named() {
    let hub = Hub::new("missing");
    let error = Bpe::download(&source(Some("v2")), &hub.options()).unwrap_err();
    assert!(error.to_string().contains("has no revision \"v2\""), "{error}");
    let other = TokenizerSource { repo: "org/other".into(), revision: None };
    let error = Bpe::download(&other, &hub.options()).unwrap_err();
    assert!(error.to_string().contains("org/other does not exist"), "{error}");
    hub.repo.lock().files = BTreeMap::new();
    let error = fails_with_markers(&hub);
    assert!(error.to_string().contains("neither tokenizer.json nor tiktoken.model"), "{error}");
    for (repo, revision) in [("org", None), ("../x", None), ("org/name", Some("a/../b"))] {
        let bad = TokenizerSource { repo: repo.into(), revision: revision.map(Into::into) };
        assert!(Bpe::download(&bad, &hub.options()).unwrap_err().is_user_error());
    }
}

/// A failed download after which only the absence of files is recorded.
fn fails_with_markers(hub: &Hub) -> Error {
    let error = hub.download(None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    assert!(hub.files().iter().all(|file| file.starts_with(".no_exist")), "{:?}", hub.files());
    error
}

#[test]
fn an_overloaded_hub_is_asked_again_a_few_times() {
    let hub = Hub::new("overloaded");
    let first = format!("/org/name/resolve/main/{TOKENIZER}");
    for status in [503, 429, 500] {
        hub.server.next(&first, Act::status(status, ""));
    }
    check(&hub.download(None).unwrap());
    hub.server.always(&first, Act::status(503, ""));
    fs::remove_dir_all(&hub.folder).unwrap();
    let error = fails(&hub, &hub.options());
    assert_eq!((error.http_status(), error.attempts()), (Some(503), Some(5)), "{error}");
}

#[test]
fn redirects_in_a_circle_or_to_an_unusable_place_end_with_an_error() {
    let hub =
        changed("circle", |seen, _| Act::Answer(Answer::new(302).with_header("Location", seen.path.clone())));
    let error = fails(&hub, &hub.options());
    assert!(error.to_string().contains("redirects more than 8 times"), "{error}");
    assert_eq!(hub.requests().len(), 9);
    let hub =
        changed("file", |_, _| Act::Answer(Answer::new(302).with_header("Location", "file:///etc/passwd")));
    let error = fails(&hub, &hub.options());
    assert!(error.to_string().contains("scheme \"file\""), "{error}");
}

#[test]
fn a_server_that_is_not_a_hub_is_told_apart() {
    for (name, lacks, problem) in [
        ("no-commit", "x-repo-commit", "no header X-Repo-Commit"),
        ("no-etag", "x-linked-etag", "no header ETag"),
    ] {
        let hub = changed(name, move |_, mut answer| {
            answer.headers.retain(|(name, _)| name != lacks && name != "etag");
            Act::Answer(answer)
        });
        let error = hub.download(None).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("HF_ENDPOINT"), "{error}");
        assert!(hub.files().is_empty(), "{:?}", hub.files());
    }
    let other = changed("other-commit", |_, mut answer| {
        answer
            .headers
            .iter_mut()
            .filter(|(_, value)| value == COMMIT)
            .for_each(|(_, value)| *value = LATER.into());
        Act::Answer(answer)
    });
    let error = other.download(Some(COMMIT)).unwrap_err().to_string();
    assert!(error.contains(&format!("it answers for {LATER}")), "{error}");
}

#[test]
fn a_download_ends_at_its_time_limit() {
    let hub = stored("stalled", |file| Act::StallBody(body(file)));
    let options = hub.options().clock(Default::default()).timeout(Duration::from_millis(700));
    let error = fails(&hub, &options);
    assert!(error.is_timeout() && error.is_retryable(), "{error:?}");
}

#[test]
fn leftovers_of_interrupted_downloads_are_not_used() {
    let hub = Hub::new("leftovers");
    let blob = sha256(&hub.repo.lock().files[TOKENIZER]);
    // What this and other libraries leave when they are killed, and a file under its final name that was cut.
    fs::create_dir_all(hub.path("blobs")).unwrap();
    fs::create_dir_all(hub.path("snapshots").join(COMMIT)).unwrap();
    for name in [format!("{blob}.incomplete"), format!(".{blob}.1-0000000000000000.incomplete"), blob.clone()]
    {
        fs::write(hub.path("blobs").join(name), "{\"cut").unwrap();
    }
    fs::write(hub.snapshot(COMMIT, CONFIG), "{}").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/gone", hub.snapshot(COMMIT, TOKENIZER)).unwrap();
    let bpe = hub.download(Some(COMMIT)).unwrap();
    assert_eq!(bpe.encode("hello").unwrap(), [258, 111]);
    assert_eq!(fs::read(hub.path("blobs").join(blob)).unwrap(), hub.repo.lock().files[TOKENIZER]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let hub = Hub::new("unwritable");
    fs::create_dir_all(&hub.folder).unwrap();
    let file = hub.folder.join("file");
    fs::write(&file, "").unwrap();
    let error = Bpe::download(&source(None), &hub.options().cache(&file)).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::System);
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}
