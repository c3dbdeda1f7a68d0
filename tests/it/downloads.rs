//! The download of checkpoints, from storage servers that misbehave and with archives that nobody should unpack.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tinkex::download::{DownloadOptions, DownloadPhase, Downloaded};
use tinkex::sync::CancelToken;
use tinkex::testing::{Act, FakeServer, Listening, Seen};
use tinkex::types::Timestamp;
use tinkex::{Error, ErrorKind, RestClient};

use crate::storage::{Asked, Content, Reply, Storage};

const TRAINING: &str = "tinker://s:train:0/weights/a";
const EXTERNAL: &str = "tinker://s:train:0/external_weights/a";

/// A server, and a folder for what is downloaded.
struct Site {
    server: FakeServer,
    _listening: Listening,
    rest: RestClient,
    folder: PathBuf,
}

impl Site {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tinkex-downloads-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        let rest = listening.client().build().unwrap().create_rest_client();
        Site { server, _listening: listening, rest, folder }
    }

    /// The server has an archive at an address of the storage; the query counts the addresses.
    fn with_archive(name: &str, storage: &Storage, life: Duration) -> Self {
        let site = Site::new(name);
        let url = storage.url("/archive.tar");
        let n = AtomicUsize::new(0);
        site.server.script(move |seen| {
            let url = format!("{url}?signature={}", n.load(Ordering::SeqCst));
            seen.path.ends_with("/archive").then(|| {
                n.fetch_add(1, Ordering::SeqCst);
                Act::json(json!({ "url": url, "expires": expires(life) }))
            })
        });
        site
    }

    /// The server has exported weights.
    fn with_files(name: &str, urls: Value) -> Self {
        let site = Site::new(name);
        site.server.script(move |seen: &Seen| {
            let answer = json!({ "urls": urls, "expires": expires(Duration::from_secs(900)) });
            seen.path.ends_with("/external_weights_urls").then(|| Act::json(answer))
        });
        site
    }

    fn destination(&self) -> PathBuf {
        self.folder.join("it")
    }

    fn part(&self) -> PathBuf {
        self.folder.join("it.part")
    }

    fn options(&self) -> DownloadOptions {
        DownloadOptions::default().destination(self.destination())
    }

    fn download(&self) -> Result<Downloaded, Error> {
        self.rest.download(TRAINING, &self.options().as_tar(true))
    }

    fn n_signings(&self) -> usize {
        self.server.requests().iter().filter(|it| it.path.ends_with("/archive")).count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn expires(life: Duration) -> String {
    Timestamp::from(SystemTime::now() + life).to_string()
}

const LONG: Duration = Duration::from_secs(3600);

/// Content of 1 MB.
fn megabyte(seed: u8) -> Content {
    Content::of((0..1_000_000_u32).map(|i| (i / 7) as u8 ^ seed).collect::<Vec<_>>())
}

fn bytes(content: &Content) -> Vec<u8> {
    match content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::Generated(_) => unreachable!(),
    }
}

/// Every file below a folder, relative.
fn listed(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_download_that_is_cut_again_and_again_continues_and_asks_for_the_same_version() {
    let content = megabyte(0);
    let sent = content.clone();
    let storage = Storage::start(move |asked| Reply::to(asked, &sent, "\"v1\"").cut(150_000));
    let site = Site::with_archive("cut", &storage, LONG);
    let downloaded = site.download().unwrap();
    assert_eq!((downloaded.size_bytes, downloaded.n_files), (1_000_000, 1));
    assert_eq!(fs::read(site.destination()).unwrap(), bytes(&content));
    assert_eq!(listed(&site.folder), ["it"]);
    let requests = storage.requests();
    assert_eq!(requests.len(), 7);
    for asked in &requests[1..] {
        assert!(0 < asked.offset().unwrap());
        assert_eq!(asked.headers["if-range"], "\"v1\"");
    }
    for asked in &requests {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
        assert!(!asked.headers.contains_key("x-api-key"), "{asked:?}");
    }
    assert_eq!(site.n_signings(), 1);
}

#[test]
fn a_server_that_ignores_ranges_or_lies_about_them_never_mixes_two_versions() {
    type Script = fn(&Asked, &Content, &Content) -> Reply;
    let cases: &[(&str, Script)] = &[
        ("ignores ranges", |asked, old, _| {
            let reply = Reply::to(&Asked { headers: Default::default(), ..asked.clone() }, old, "\"v1\"");
            if asked.n < 2 { reply.cut(400_000) } else { reply }
        }),
        ("new version after a cut", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "\"v1\"").cut(400_000),
            _ => Reply::to(asked, new, "\"v2\""),
        }),
        ("new version in spite of If-Range", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "\"v1\"").cut(400_000),
            1 => {
                let asked =
                    Asked { headers: [("range".into(), "bytes=400000-".into())].into(), ..asked.clone() };
                Reply::to(&asked, new, "\"v2\"")
            }
            _ => Reply::to(asked, new, "\"v2\""),
        }),
        ("another range", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "\"v1\"").cut(400_000),
            1 => Reply::to(asked, new, "\"v1\"").with("Content-Range", "bytes 0-999999/1000000"),
            _ => Reply::to(asked, new, "\"v1\""),
        }),
        ("another size", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "\"v1\"").cut(400_000),
            1 => Reply::to(asked, new, "\"v1\"").with("Content-Range", "bytes 400000-999999/1000001"),
            _ => Reply::to(asked, new, "\"v1\""),
        }),
        ("no validator", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "").without("ETag").cut(400_000),
            _ => Reply::to(asked, new, "").without("ETag"),
        }),
        ("weak tag", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "W/\"v\"").cut(400_000),
            _ => Reply::to(asked, new, "W/\"v\""),
        }),
        ("416", |asked, old, new| match asked.n {
            0 => Reply::to(asked, old, "\"v1\"").cut(400_000),
            1 => Reply::status(416, ""),
            _ => Reply::to(asked, new, "\"v2\""),
        }),
    ];
    for (name, script) in cases {
        let (old, new) = (megabyte(0), megabyte(1));
        let last = if *name == "ignores ranges" { bytes(&old) } else { bytes(&new) };
        let storage = Storage::start(move |asked| script(asked, &old, &new));
        let site = Site::with_archive("mix", &storage, LONG);
        site.download().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(fs::read(site.destination()).unwrap() == last, "{name}");
    }
}

#[test]
fn an_address_is_replaced_before_it_expires_and_after_the_storage_refuses_it() {
    let content = megabyte(3);
    for (name, life, status) in [
        ("early", Duration::from_millis(1), 200),
        ("refused", LONG, 403),
        ("400", LONG, 400),
        ("started anew", LONG, 404),
    ] {
        let sent = content.clone();
        let used = Mutex::new(0);
        let storage = Storage::start(move |asked| {
            // Each address is good for two requests.
            let mut used = used.lock().unwrap();
            *used += 1;
            if status != 200 && *used % 3 == 0 {
                return Reply::status(
                    status,
                    "<Error><Code>AccessDenied</Code><Message>signature=0</Message></Error>",
                );
            }
            Reply::to(asked, &sent, "\"v1\"").cut(200_000)
        });
        let site = Site::with_archive(name, &storage, life);
        site.download().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::read(site.destination()).unwrap(), bytes(&content), "{name}");
        assert!(1 < site.n_signings(), "{name}");
        let targets: Vec<_> = storage.requests().iter().map(|it| it.target.clone()).collect();
        assert!(targets.iter().any(|it| !it.ends_with("signature=0")), "{name}: {targets:?}");
    }
}

#[test]
fn a_storage_that_refuses_new_addresses_fails_soon_without_showing_the_address() {
    let storage = Storage::start(|_| {
        Reply::status(
            403,
            "<Error><Code>SignatureDoesNotMatch</Code><Message>/archive.tar?signature=0</Message></Error>",
        )
    });
    let site = Site::with_archive("forbidden", &storage, LONG);
    let error = site.download().unwrap_err();
    assert_eq!(error.http_status(), Some(403));
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("SignatureDoesNotMatch")
            && !text.contains("signature=")
            && !text.contains("archive.tar"),
        "{text}"
    );
    assert_eq!(storage.requests().len(), 4);
}

#[test]
fn a_file_that_changes_all_the_time_and_a_storage_without_progress_end_the_download() {
    let storage =
        Storage::start(|asked| Reply::to(asked, &megabyte(0), &format!("\"{}\"", asked.n)).cut(300_000));
    let site = Site::with_archive("changes", &storage, LONG);
    let error = site.download().unwrap_err();
    assert!(error.message().contains("changes on the server"), "{error}");
    let storage = Storage::start(|asked| match asked.n {
        0 => Reply::to(asked, &megabyte(0), "\"v\"").cut(300_000),
        _ => Reply::status(404, "gone"),
    });
    let site = Site::with_archive("gone", &storage, LONG);
    let error = site.download().unwrap_err();
    assert!(error.message().contains("does not have the file"), "{error}");
    assert!(site.part().is_dir() && !site.destination().exists());
}

#[test]
fn what_arrived_before_a_failure_is_continued_by_the_next_download_unless_it_is_discarded() {
    for (name, resumes, offset) in [("resume", true, Some(300_000)), ("discard", false, None)] {
        let content = megabyte(5);
        let sent = content.clone();
        let storage = Storage::start(move |asked| match asked.n {
            0 => Reply::to(asked, &sent, "\"v\"").cut(300_000),
            1 => Reply::status(405, "not now"),
            _ => Reply::to(asked, &sent, "\"v\""),
        });
        let site = Site::with_archive(name, &storage, LONG);
        site.download().unwrap_err();
        let again = site.options().as_tar(true).resume(resumes);
        site.rest.download(TRAINING, &again).unwrap();
        assert_eq!(fs::read(site.destination()).unwrap(), bytes(&content));
        assert_eq!(storage.requests()[2].offset(), offset, "{name}");
    }
}

#[test]
fn a_part_of_another_checkpoint_is_not_continued() {
    let storage = Storage::start(move |asked| match asked.n {
        0 => Reply::to(asked, &megabyte(1), "\"v\"").cut(300_000),
        1 => Reply::status(405, ""),
        _ => Reply::to(asked, &megabyte(2), "\"v\""),
    });
    let site = Site::with_archive("other", &storage, LONG);
    site.download().unwrap_err();
    site.rest.download("tinker://s:train:0/weights/b", &site.options().as_tar(true)).unwrap();
    assert_eq!(fs::read(site.destination()).unwrap(), bytes(&megabyte(2)));
}

#[test]
fn a_cancelled_download_keeps_its_part_and_the_old_destination() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::Generated(1 << 40), "\"v\""));
    let site = Site::with_archive("cancel", &storage, LONG);
    fs::write(site.destination(), "old").unwrap();
    let token = CancelToken::new();
    let options = site.options().as_tar(true).force(true).cancelled_by(&token).on_progress(move |progress| {
        if 0 < progress.n_bytes && matches!(progress.phase, DownloadPhase::Receiving) {
            token.cancel();
        }
    });
    let error = site.rest.download(TRAINING, &options).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(fs::read_to_string(site.destination()).unwrap(), "old");
    assert!(0 < fs::metadata(site.part().join("files/archive")).unwrap().len());
}

#[test]
fn digests_that_the_storage_states_are_checked() {
    // CRC-32C of "123456789".
    let good = "4waSgw==";
    for (name, bad_answers, is_good) in
        [("digest", 0, true), ("digest-once", 1, true), ("digest-bad", usize::MAX, false)]
    {
        let storage = Storage::start(move |asked| {
            let text = if asked.n < bad_answers { "123456780" } else { "123456789" };
            Reply::to(asked, &Content::of(text), "\"v\"")
                .with("x-goog-hash", format!("crc32c={good},md5=AAAA"))
        });
        let site = Site::with_archive(name, &storage, LONG);
        match site.download() {
            Ok(_) => assert!(is_good && fs::read(site.destination()).unwrap() == b"123456789", "{name}"),
            Err(error) => {
                assert!(!is_good && error.message().contains("digest"), "{name}: {error}");
                assert!(!site.destination().exists());
            }
        }
    }
}

#[test]
fn an_answer_without_a_size_or_with_a_compression_is_not_taken_for_the_file() {
    type Script = fn(Reply) -> Reply;
    let cases: [(&str, Script); 2] = [
        ("nosize", |reply| Reply { has_length: false, ..reply }),
        ("gzip", |reply| reply.with("Content-Encoding", "gzip")),
    ];
    for (name, script) in cases {
        let storage = Storage::start(move |asked| script(Reply::to(asked, &Content::of("x"), "\"v\"")));
        let site = Site::with_archive(name, &storage, LONG);
        assert!(site.download().is_err(), "{name}");
        assert!(!site.destination().exists());
    }
}

#[test]
fn redirects_of_the_storage_are_followed() {
    let end = Storage::start(|asked| Reply::to(asked, &Content::of("there"), "\"v\""));
    let to = end.url("/elsewhere");
    let storage = Storage::start(move |_| Reply::status(307, "").with("Location", to.clone()));
    let site = Site::with_archive("redirect", &storage, LONG);
    site.download().unwrap();
    assert_eq!(fs::read_to_string(site.destination()).unwrap(), "there");
    let url = Arc::new(Mutex::new(String::new()));
    let own = url.clone();
    let storage =
        Storage::start(move |_| Reply::status(302, "").with("Location", own.lock().unwrap().clone()));
    *url.lock().unwrap() = storage.url("/again");
    let site = Site::with_archive("redirects", &storage, LONG);
    assert!(site.download().unwrap_err().message().contains("redirects"));
}

#[test]
fn an_existing_destination_is_refused_before_anything_is_sent_or_replaced_at_the_end() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::of("new"), "\"v\""));
    let site = Site::with_archive("exists", &storage, LONG);
    fs::create_dir(site.destination()).unwrap();
    fs::write(site.destination().join("mine"), "old").unwrap();
    let error = site.download().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidInput(_)), "{error}");
    assert!(site.server.requests().is_empty());
    assert_eq!(listed(&site.folder), ["it", "it/mine"]);
    site.rest.download(TRAINING, &site.options().as_tar(true).force(true)).unwrap();
    assert_eq!(fs::read_to_string(site.destination()).unwrap(), "new");
    assert_eq!(listed(&site.folder), ["it"]);
    // A folder of the user is not taken for the part of a download.
    fs::remove_file(site.destination()).unwrap();
    fs::create_dir(site.part()).unwrap();
    fs::write(site.part().join("mine"), "old").unwrap();
    site.download().unwrap_err();
    assert_eq!(listed(&site.folder), ["it.part", "it.part/mine"]);
    // A process that was killed at its beginning has left no more than its lock.
    fs::rename(site.part().join("mine"), site.part().join("lock")).unwrap();
    site.rest.download(TRAINING, &site.options().as_tar(true)).unwrap();
    assert_eq!(listed(&site.folder), ["it"]);
}

#[test]
fn two_downloads_to_one_destination_exclude_each_other() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::Generated(1 << 40), "\"v\""));
    let site = Site::with_archive("two", &storage, LONG);
    let token = CancelToken::new();
    let (rest, options, cancel) = (site.rest.clone(), site.options().as_tar(true), token.clone());
    let refused = Mutex::new(None);
    let refused = Arc::new(refused);
    let first = site.options().as_tar(true).cancelled_by(&token).on_progress({
        let refused = refused.clone();
        move |progress| {
            if 0 < progress.n_bytes {
                *refused.lock().unwrap() = rest.download(TRAINING, &options).err();
                cancel.cancel();
            }
        }
    });
    assert!(site.rest.download(TRAINING, &first).unwrap_err().is_cancelled());
    let refused = refused.lock().unwrap().take().unwrap();
    assert!(refused.message().contains("in use"), "{refused}");
}

#[test]
fn exported_weights_are_downloaded_file_by_file_at_the_same_time() {
    let storage = Storage::start(|asked| {
        let name = asked.target.trim_start_matches('/').split('?').next().unwrap().to_owned();
        Reply::to(asked, &Content::of(name.repeat(50_000)), "\"v\"").cut(200_000)
    });
    let names = ["adapter_config.json", "adapter_model.safetensors", "folder/a", "folder/b", "empty/../x"];
    let urls = |n: usize| -> Value {
        names[..n]
            .iter()
            .map(|name| ((*name).to_owned(), json!(storage.url(&format!("/{name}?s=1")))))
            .collect()
    };
    let site = Site::with_files("files", urls(4));
    let last = Arc::new(Mutex::new(Default::default()));
    let told = last.clone();
    let options = site.options().concurrency(3).on_progress(move |it| *told.lock().unwrap() = it.clone());
    let downloaded = site.rest.download(EXTERNAL, &options).unwrap();
    assert_eq!(downloaded.n_files, 4);
    assert_eq!(
        listed(&site.destination()),
        ["adapter_config.json", "adapter_model.safetensors", "folder", "folder/a", "folder/b"]
    );
    for name in &names[..4] {
        assert_eq!(fs::read_to_string(site.destination().join(name)).unwrap(), name.repeat(50_000));
    }
    let last = last.lock().unwrap();
    assert_eq!((last.n_files, last.total_files), (4, Some(4)));
    assert_eq!((last.n_bytes, last.total_bytes), (downloaded.size_bytes, Some(downloaded.size_bytes)));
    let site = Site::with_files("files-bad", urls(5));
    let error = site.rest.download(EXTERNAL, &site.options()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode), "{error}");
    assert!(listed(&site.folder).is_empty());
    assert!(site.rest.download(EXTERNAL, &site.options().as_tar(true)).unwrap_err().is_user_error());
}

/// One header of a tar archive, with its content.
fn entry(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    entry_of_size(name, kind, content, &format!("{:011o}\0", content.len()))
}

fn entry_of_size(name: &[u8], kind: u8, content: &[u8], size: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = kind;
    if matches!(kind, b'1' | b'2') {
        block[157..168].copy_from_slice(b"/etc/passwd");
    }
    block[257..265].copy_from_slice(b"ustar\x0000");
    summed(&mut block);
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// Sets the checksum of a header.
fn summed(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|it| u32::from(*it)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
        content += &format!("{length} {key}={value}\n");
    }
    entry(b"PaxHeaders/x", b'x', content.as_bytes())
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Serves an archive and downloads it as a folder.
fn unpack(name: &str, archive: Vec<u8>) -> (Site, Result<Downloaded, Error>) {
    let content = Content::of(archive);
    let storage = Storage::start(move |asked| Reply::to(asked, &content, "\"v\""));
    let site = Site::with_archive(name, &storage, LONG);
    let result = site.rest.download(TRAINING, &site.options());
    (site, result)
}

#[test]
fn usual_archives_are_unpacked_with_long_names_and_compressed_too() {
    let long = format!("folder/{}", "x".repeat(180));
    let files = archive(&[
        entry(b"./", b'5', b""),
        entry(b"adapter_config.json", b'0', b"{}"),
        entry(b"./sub/a", 0, &[7; 1000]),
        entry(b"sub/", b'5', b""),
        entry(b"g", b'g', b"16 comment=text\n"),
        pax(&[("path", &long), ("mtime", "1.5")]),
        entry(b"short", b'0', b"by pax"),
        entry(b"././@LongLink", b'L', format!("gnu/{}\0", "y".repeat(200)).as_bytes()),
        entry(b"gnu/y", b'0', b"by gnu"),
        pax(&[("size", "3")]),
        entry_of_size(b"sized", b'0', b"abc", "00000000000\0"),
        entry(b"empty", b'0', b""),
    ]);
    for (name, bytes) in [("plain", files.clone()), ("gz", gzip(&files))] {
        let (site, result) = unpack(name, bytes);
        assert_eq!(result.unwrap().n_files, 6, "{name}");
        let read = |file: &str| fs::read(site.destination().join(file)).unwrap();
        assert_eq!(read("adapter_config.json"), b"{}");
        assert_eq!(read("sub/a"), [7; 1000]);
        assert_eq!(read(&long), b"by pax");
        assert_eq!(read(&format!("gnu/{}", "y".repeat(200))), b"by gnu");
        assert_eq!((read("sized"), read("empty")), (b"abc".to_vec(), Vec::new()));
        assert_eq!(listed(&site.folder).iter().filter(|it| !it.starts_with("it/")).count(), 1);
    }
}

#[test]
fn a_hostile_archive_writes_nothing_and_leaves_nothing() {
    let file = |name: &str| entry(name.as_bytes(), b'0', b"x");
    let good = || file("good");
    let mut bad_sum = file("x");
    bad_sum[0] = b'y';
    let mut huge = file("x");
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    summed(&mut huge);
    let mut negative = file("x");
    negative[124..136].fill(0xff);
    summed(&mut negative);
    let mut prefixed = file("passwd");
    prefixed[345..351].copy_from_slice(b"../etc");
    summed(&mut prefixed);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("parent", archive(&[good(), file("../x")])),
        ("parent within", archive(&[good(), file("a/../../x")])),
        ("parent in the prefix", archive(&[good(), prefixed])),
        ("parent by pax", archive(&[good(), pax(&[("path", "../x")]), file("x")])),
        ("parent by gnu", archive(&[good(), entry(b"././@LongLink", b'L', b"../x\0"), file("x")])),
        ("absolute", archive(&[good(), file("/tinkex-x")])),
        ("absolute folder", archive(&[good(), entry(b"/tinkex-x/", b'5', b"")])),
        ("drive", archive(&[good(), file("C:\\x")])),
        ("backslash", archive(&[good(), file("..\\x")])),
        ("device name", archive(&[good(), file("NUL.txt")])),
        ("trailing dot", archive(&[good(), file("x.")])),
        ("control character", archive(&[good(), file("a\nb")])),
        ("escape sequence", archive(&[good(), file("\x1b[2Jx")])),
        ("direction mark", archive(&[good(), file("a\u{202e}b")])),
        ("not UTF-8", archive(&[good(), entry(b"\xff\xfe", b'0', b"x")])),
        ("empty name", archive(&[good(), file("")])),
        ("symbolic link", archive(&[good(), entry(b"x", b'2', b"")])),
        ("link, then through it", archive(&[entry(b"d", b'2', b""), file("d/passwd")])),
        ("hard link", archive(&[good(), entry(b"x", b'1', b"")])),
        ("link by pax", archive(&[good(), pax(&[("linkpath", "/etc")]), file("x")])),
        ("long link by gnu", archive(&[good(), entry(b"././@LongLink", b'K', b"/etc\0"), file("x")])),
        ("character device", archive(&[good(), entry(b"x", b'3', b"")])),
        ("block device", archive(&[good(), entry(b"x", b'4', b"")])),
        ("pipe", archive(&[good(), entry(b"x", b'6', b"")])),
        ("sparse file", archive(&[good(), entry(b"x", b'S', b"")])),
        ("unknown kind", archive(&[good(), entry(b"x", b'Z', b"")])),
        ("same name twice", archive(&[good(), good()])),
        ("same name but for case", archive(&[good(), file("GOOD")])),
        ("file and folder", archive(&[file("a"), file("a/b")])),
        ("file named as a folder", archive(&[good(), entry(b"a/", b'0', b"x")])),
        ("too deep", archive(&[good(), file(&"a/".repeat(40))])),
        ("too long", archive(&[good(), pax(&[("path", &"a/".repeat(600))]), file("x")])),
        ("large header", archive(&[good(), entry(b"x", b'x', &vec![b'1'; 70_000])])),
        ("malformed header", archive(&[good(), entry(b"x", b'x', b"99 path=x\n")])),
        ("wrong checksum", archive(&[good(), bad_sum])),
        ("huge size", archive(&[good(), huge])),
        ("negative size", archive(&[good(), negative])),
        ("size that is not octal", archive(&[good(), entry_of_size(b"x", b'0', b"", "9999\0")])),
        ("no end", good()),
        ("cut within a file", archive(&[good()])[..700].to_vec()),
        ("empty archive", archive(&[])),
        ("no archive", b"<html>please log in</html>".repeat(100)),
        ("damaged gzip", gzip(&archive(&[good()]))[..60].to_vec()),
        ("bomb", gzip(&archive(&[entry(b"x", b'0', &vec![0; 100 << 20])]))),
        ("too many entries", gzip(&archive(&vec![entry(b"./", b'5', b""); 100_001]))),
    ];
    for (name, bytes) in cases {
        let (site, result) = unpack("hostile", bytes);
        let error = result.expect_err(name);
        assert!(matches!(error.kind(), ErrorKind::Decode), "{name}: {error}");
        assert_eq!(listed(&site.folder), Vec::<String>::new(), "{name}: {error}");
        assert!(!error.message().chars().any(char::is_control), "{name}");
        assert!(!site.folder.with_file_name("x").exists(), "{name}");
    }
    assert!(!Path::new("/tinkex-x").exists());
}

#[test]
fn a_training_state_is_exported_if_the_server_makes_no_archives() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::of("weights"), "\"v\""));
    let site = Site::new("export");
    let url = storage.url("/adapter_model.safetensors?s=1");
    site.server.script(move |seen| {
        if seen.path.ends_with("/archive") {
            return Some(Act::status(405, "{\"detail\":\"Method Not Allowed\"}"));
        }
        let urls = json!({ "urls": { "adapter_model.safetensors": url }, "expires": expires(LONG) });
        seen.path.ends_with("/external_weights_urls").then(|| Act::json(urls))
    });
    let service = site._listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let saved = training.save_state("a", tinkex::types::Ttl::Never).wait().unwrap();
    let rest = service.create_rest_client();
    rest.download(saved.path, &site.options()).unwrap();
    assert_eq!(listed(&site.folder), ["it", "it/adapter_model.safetensors"]);
    let exports = site.server.requests_to("/api/v1/save_weights_external");
    assert_eq!(exports.len(), 1);
    assert_eq!(exports[0].json().unwrap()["ttl_seconds"], 3600);
    let deleted =
        site.server.requests().iter().any(|it| it.method == "DELETE" && it.path.contains("external_weights"));
    assert!(deleted, "the export was not deleted");
    let sampler = "tinker://s:train:0/sampler_weights/a";
    let error = rest.download(sampler, &site.options().force(true)).unwrap_err();
    assert!(error.message().contains("training state"), "{error}");
}
