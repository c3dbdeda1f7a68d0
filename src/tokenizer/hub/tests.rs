//! Downloads from a hub on the loopback interface.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use serde_json::json;

use super::metadata::sha256;
use super::*;
use crate::http::Answer;
use crate::sync::{Mutex, VirtualClock};
use crate::testing::{Act, FakeServer, Listening, Seen};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::bpe::tests::{small, vocabularies_of_bytes};

#[allow(dead_code, reason = "the file is shared with the integration tests")]
#[path = "../../../tests/it/util/proxy.rs"]
mod proxy;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const SMALL_ETAG: &str = "5555555555555555555555555555555555555555";
const TOKEN: &str = "hf_tokenOfTheTests";

/// A hub with the repository `org/name`, the storage server to which it redirects for large files, and an empty cache.
struct Hub {
    server: FakeServer,
    storage: FakeServer,
    listening: Listening,
    storage_listening: Listening,
    repo: Arc<Mutex<Repo>>,
    folder: PathBuf,
}

struct Repo {
    commit: &'static str,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Hub {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tinkex-hub-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let config = json!({"bos_token": null, "eos_token": "<end>"}).to_string();
        let files = [(TOKENIZER, small().to_string().into_bytes()), (CONFIG, config.into_bytes())];
        let repo = Arc::new(Mutex::new(Repo { commit: COMMIT, files: files.into() }));
        let (server, storage) = (FakeServer::new(), FakeServer::new());
        let (listening, storage_listening) = (server.listen().unwrap(), storage.listen().unwrap());
        let (of_hub, place) = (repo.clone(), storage_listening.url());
        server.script(move |seen| Some(Act::Answer(answer(&of_hub.lock(), seen, &place))));
        let of_storage = repo.clone();
        storage.script(move |seen| {
            let (path, _signature) = seen.path.split_once('?')?;
            let body = of_storage.lock().files.get(path.trim_start_matches('/'))?.clone();
            Some(Act::Answer(Answer::new(200).with_header("ETag", "\"of-storage\"").with_body(body)))
        });
        Hub { server, storage, listening, storage_listening, repo, folder }
    }

    /// Settings with which retries take no time.
    fn options(&self) -> HubOptions {
        let options = HubOptions::default().without_environment().clock(VirtualClock::new().clock());
        options.endpoint(self.listening.url()).cache(&self.folder).token(TOKEN)
    }

    fn download(&self, revision: Option<&str>) -> Result<Bpe> {
        Bpe::download(&source(revision), &self.options())
    }

    /// Method and path of each request to the hub so far.
    fn requests(&self) -> Vec<String> {
        let requests = self.server.requests();
        requests.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join("models--org--name").join(path)
    }

    fn snapshot(&self, commit: &str, name: &str) -> PathBuf {
        self.path("snapshots").join(commit).join(name)
    }

    /// All files of the cache, with their paths below the folder of the repository.
    fn files(&self) -> Vec<String> {
        let root = self.path("");
        let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn source(revision: Option<&str>) -> TokenizerSource {
    TokenizerSource { repo: "org/name".into(), revision: revision.map(Into::into) }
}

/// The regular answer of the hub. It redirects for all large files: those whose etag is their SHA-256.
fn answer(repo: &Repo, seen: &Seen, storage: &str) -> Answer {
    let Some(path) = seen.path.strip_prefix("/org/name/resolve/") else {
        return Answer::new(404).with_header("X-Error-Code", "RepoNotFound");
    };
    let (revision, name) = path.split_once('/').unwrap();
    if !["main", "v1", "refs%2Fpr%2F1", repo.commit].contains(&revision) {
        return Answer::new(404).with_header("X-Error-Code", "RevisionNotFound");
    }
    let Some(body) = repo.files.get(name) else {
        let missing = Answer::new(404).with_header("X-Error-Code", "EntryNotFound");
        return missing.with_header("X-Repo-Commit", repo.commit);
    };
    let is_large = name != CONFIG;
    if is_large {
        return Answer::new(302)
            .with_header("Location", format!("{storage}/{name}?Signature=hidden"))
            .with_header("ETag", "\"of-redirect\"")
            .with_header("X-Linked-Etag", format!("\"{}\"", sha256(body)))
            .with_header("X-Linked-Size", body.len().to_string())
            .with_header("X-Repo-Commit", repo.commit);
    }
    let answer = Answer::new(200)
        .with_header("ETag", format!("\"{SMALL_ETAG}\""))
        .with_header("Content-Length", body.len().to_string())
        .with_header("X-Repo-Commit", repo.commit);
    if seen.method == "HEAD" { answer } else { answer.with_body(body.clone()) }
}

fn check(bpe: &Bpe) {
    assert_eq!(bpe.encode("hello<end>").unwrap(), [258, 111, 300]);
    assert_eq!(bpe.eos_id(), Some(300));
}

#[test]
fn a_download_fills_the_cache_in_the_layout_of_hugging_face_and_the_commit_is_then_used_without_network() {
    let hub = Hub::new("whole");
    check(&hub.download(None).unwrap());
    let blob = sha256(&hub.repo.lock().files[TOKENIZER]);
    assert_eq!(
        hub.files(),
        [
            format!("blobs/{SMALL_ETAG}"),
            format!("blobs/{blob}"),
            "refs/main".to_string(),
            format!("snapshots/{COMMIT}/{TOKENIZER}"),
            format!("snapshots/{COMMIT}/{CONFIG}"),
        ]
    );
    assert_eq!(fs::read_to_string(hub.path("refs/main")).unwrap(), COMMIT);
    if cfg!(unix) {
        let link = fs::read_link(hub.snapshot(COMMIT, TOKENIZER)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&blob));
    }
    let (repo, head) = ("/org/name/resolve", format!("HEAD /org/name/resolve/{COMMIT}"));
    assert_eq!(
        hub.requests(),
        [
            format!("HEAD {repo}/main/{TOKENIZER}"),
            format!("{head}/{CONFIG}"),
            format!("GET {repo}/{COMMIT}/{CONFIG}"),
            format!("GET {repo}/{COMMIT}/{TOKENIZER}"),
        ]
    );
    let n_requests = hub.requests().len();
    check(&hub.download(Some(COMMIT)).unwrap());
    let commit = hub.options().offline(true);
    check(&Bpe::download(&source(None), &commit).unwrap());
    assert_eq!(hub.requests().len(), n_requests);
    // The reader that knows nothing of downloads finds the same files.
    let cache = crate::tokenizer::hf_cache::HfCache::at(&hub.folder);
    check(&Bpe::from_dir(cache.snapshot("org/name", "main").unwrap()).unwrap());
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_server_to_which_it_redirects() {
    let hub = Hub::new("token");
    hub.download(None).unwrap();
    let requests = hub.server.requests();
    let bearer = format!("Bearer {TOKEN}");
    assert!(requests.iter().all(|seen| seen.header("authorization") == Some(&bearer)));
    assert!(requests.iter().all(|seen| seen.header("accept-encoding") == Some("identity")));
    let [seen] = &hub.storage.requests()[..] else { panic!("{:?}", hub.storage.requests()) };
    assert_eq!(seen.path, format!("/{TOKENIZER}?Signature=hidden"));
    assert_eq!(seen.header("authorization"), None);
    let without = Hub::new("no-token");
    Bpe::download(&source(None), &without.options().token("")).unwrap();
    assert!(without.server.requests().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn a_renamed_repository_is_followed_on_the_same_hub_with_the_token() {
    let hub = Hub::new("renamed");
    let old = TokenizerSource { repo: "old/name".into(), revision: None };
    let (repo, place) = (hub.repo.clone(), hub.storage_listening.url());
    hub.server.script(move |seen| {
        let answer = match seen.path.strip_prefix("/old/") {
            Some(rest) => Answer::new(307).with_header("Location", format!("/org/{rest}")),
            None => answer(&repo.lock(), seen, &place),
        };
        Some(Act::Answer(answer))
    });
    check(&Bpe::download(&old, &hub.options()).unwrap());
    assert!(hub.folder.join("models--old--name/refs/main").is_file());
    assert!(hub.server.requests().iter().all(|seen| seen.header("authorization").is_some()));
}

#[test]
fn a_branch_costs_one_request_while_its_commit_stays_and_moves_with_it() {
    let hub = Hub::new("branch");
    hub.download(Some("refs/pr/1")).unwrap();
    assert_eq!(fs::read_to_string(hub.path("refs/refs/pr/1")).unwrap(), COMMIT);
    let n_requests = hub.requests().len();
    hub.download(Some("refs/pr/1")).unwrap();
    assert_eq!(hub.requests()[n_requests..], [format!("HEAD /org/name/resolve/refs%2Fpr%2F1/{TOKENIZER}")]);
    // A new commit with another configuration and the same tokens, which are not downloaded again.
    let config = json!({"eos_token": "<left>"}).to_string();
    {
        let mut repo = hub.repo.lock();
        repo.commit = LATER;
        repo.files.insert(CONFIG, config.into_bytes());
    }
    let (etag, repo, place) = ("6".repeat(40), hub.repo.clone(), hub.storage_listening.url());
    hub.server.script(move |seen| {
        let mut answer = answer(&repo.lock(), seen, &place);
        answer.headers.iter_mut().filter(|(_, value)| value.contains(SMALL_ETAG)).for_each(|(_, value)| {
            *value = format!("\"{etag}\"");
        });
        Some(Act::Answer(answer))
    });
    assert_eq!(hub.download(Some("refs/pr/1")).unwrap().eos_id(), Some(400));
    assert_eq!(fs::read_to_string(hub.path("refs/refs/pr/1")).unwrap(), LATER);
    assert_eq!(hub.storage.requests().len(), 1);
    // The earlier commit is still here.
    check(&hub.download(Some(COMMIT)).unwrap());
}

#[test]
fn without_the_hub_the_commit_of_the_last_download_is_used() {
    let hub = Hub::new("unreachable");
    hub.download(None).unwrap();
    hub.listening.refuse();
    check(&hub.download(None).unwrap());
    let error = hub.download(Some("v1")).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains(&hub.listening.url()), "{error}");
    let error = Bpe::download(&source(Some("v1")), &hub.options().offline(true)).unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn a_model_without_tokenizer_json_is_downloaded_with_its_ranks() {
    let hub = Hub::new("ranks");
    let config = json!({
        "eos_token": "[EOS]",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", null]},
        "added_tokens_decoder": {"256": {"content": "[EOS]", "special": true}},
    });
    let ranks = vocabularies_of_bytes().into_bytes();
    hub.repo.lock().files = [(RANKS, ranks), (CONFIG, config.to_string().into_bytes())].into();
    let bpe = hub.download(Some(COMMIT)).unwrap();
    assert_eq!((bpe.encode("a[EOS]").unwrap(), bpe.eos_id()), (vec![97, 256], Some(256)));
    assert!(hub.path(".no_exist").join(COMMIT).join(TOKENIZER).is_file());
    let n_requests = hub.requests().len();
    hub.download(Some(COMMIT)).unwrap();
    assert_eq!(hub.requests().len(), n_requests);
}

#[test]
fn a_model_without_tokenizer_config_is_complete_once_the_hub_has_said_so() {
    let hub = Hub::new("no-config");
    hub.repo.lock().files.remove(CONFIG);
    assert_eq!(hub.download(Some(COMMIT)).unwrap().eos_id(), None);
    let n_requests = hub.requests().len();
    hub.download(Some(COMMIT)).unwrap();
    assert_eq!(hub.requests().len(), n_requests);
    fs::remove_file(hub.path(".no_exist").join(COMMIT).join(CONFIG)).unwrap();
    hub.download(Some(COMMIT)).unwrap();
    assert!(n_requests < hub.requests().len());
}

#[test]
fn twenty_threads_that_need_one_tokenizer_make_one_download() {
    let hub = Hub::new("threads");
    let start = Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                start.wait();
                check(&hub.download(Some(COMMIT)).unwrap());
            });
        }
    });
    let gets = hub.requests().into_iter().filter(|request| request.starts_with("GET")).count();
    assert_eq!((gets, hub.storage.requests().len(), hub.requests().len()), (2, 1, 4), "{:?}", hub.requests());
}

#[test]
fn downloads_that_do_not_know_of_each_other_may_fill_the_same_cache() {
    let hub = Hub::new("processes");
    // Another spelling of the endpoint is another key: these two run beside each other like two processes.
    let other = hub.listening.url().replace("127.0.0.1", "localhost");
    std::thread::scope(|scope| {
        for endpoint in [hub.listening.url(), other] {
            let options = hub.options().endpoint(endpoint);
            scope.spawn(move || check(&Bpe::download(&source(None), &options).unwrap()));
        }
    });
    assert_eq!(hub.files().len(), 5, "{:?}", hub.files());
}

#[test]
fn a_proxy_gets_the_requests_to_the_hub_and_its_password_is_not_shown() {
    let hub = Hub::new("proxy");
    let (repo, place) = (hub.repo.clone(), "http://storage.invalid".to_string());
    hub.server.script(move |seen| {
        // The proxy connects to the same server for each host.
        let answer = if seen.path.contains("Signature") {
            Answer::new(200).with_body(repo.lock().files[TOKENIZER].clone())
        } else {
            answer(&repo.lock(), seen, &place)
        };
        Some(Act::Answer(answer))
    });
    let proxy = proxy::Proxy::start(&hub.listening.url(), 200);
    let through = |proxy: &proxy::Proxy| {
        let options = hub.options().endpoint("http://hub.invalid");
        Bpe::download(&source(None), &options.proxy(format!("http://user:pass%20word@{}", proxy.address())))
    };
    check(&through(&proxy).unwrap());
    let heads = proxy.heads();
    for host in ["hub.invalid", "storage.invalid"] {
        assert!(heads.iter().any(|head| head.starts_with(&format!("CONNECT {host}:80 "))), "{heads:?}");
    }
    assert!(heads.iter().all(|head| head.to_lowercase().contains("proxy-authorization")));
    assert!(!heads.concat().contains(TOKEN));
    fs::remove_dir_all(&hub.folder).unwrap();
    let refusing = proxy::Proxy::start(&hub.listening.url(), 407);
    let error = through(&refusing).unwrap_err().to_string();
    assert!(
        error.contains(&refusing.address().to_string()) && error.contains("http://hub.invalid/"),
        "{error}"
    );
    assert!(!error.contains("pass"), "{error}");
}
