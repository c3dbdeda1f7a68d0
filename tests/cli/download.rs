//! `tinkex checkpoint download`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tinkex::CloseStatus;
use tinkex::testing::Act;
use tinkex::types::{LoraConfig, Timestamp, Ttl};

use crate::manage_site::Site;
use crate::storage::{Content, Reply, Storage, block};
use crate::util::{Folder, engine, run, tinkex};

const PATH: &str = "tinker://s:train:0/weights/a";
const TAR: &str = "s_train_0_weights_a.tar";

/// A server whose archive is at the storage.
fn site(name: &str, storage: &Storage) -> Site {
    let site = Site::new(name);
    let url = storage.url("/archive.tar");
    let n = AtomicUsize::new(0);
    site.react(move |seen| {
        let is_archive = seen.path.ends_with("/archive");
        is_archive.then(|| {
            let n = n.fetch_add(1, Ordering::SeqCst);
            let expires = Timestamp::from(SystemTime::now() + Duration::from_secs(900)).to_string();
            Act::json(json!({ "url": format!("{url}?signature={n}"), "expires": expires }))
        })
    });
    site
}

#[test]
fn checkpoints_of_the_engine_arrive_as_folders_and_archives_and_are_not_overwritten() {
    let home = Folder::new("download-engine");
    let data_dir = home.join("engine");
    let (state, external) = {
        let (_server, service) = engine(&home);
        let config = LoraConfig { rank: 4, ..Default::default() };
        let training = service.create_lora_training_client("tinkex/nano", config).unwrap();
        let state = training.save_state("a", Ttl::Never).wait().unwrap().path.to_string();
        let external = training.save_weights_external("b", Ttl::Never, &[]).wait().unwrap().path.to_string();
        service.close(CloseStatus::Success).unwrap();
        (state, external)
    };
    let local = format!("--local={}", data_dir.display());
    let output = home.join("out").display().to_string();
    let download = |path: &str, more: &[&str]| {
        run(&home, &[&["checkpoint", "download", path, "-o", &output, "-f", "json", &local], more].concat())
    };
    for (path, file) in [(&state, "adapter_config.json"), (&external, "adapter_model.safetensors")] {
        let (status, stdout, stderr) = download(path, &[]);
        assert_eq!(status, 0, "{stderr}");
        let json: Value = serde_json::from_str(&stdout).unwrap();
        let name = path.trim_start_matches("tinker://").replace(['/', ':'], "_");
        let destination = home.join("out").join(name);
        assert_eq!(json["checkpoint_path"], path.as_str());
        assert_eq!(json["destination"], destination.display().to_string());
        assert!(0 < json["file_size_bytes"].as_u64().unwrap());
        assert!(destination.join(file).is_file(), "{stderr}");
        assert_eq!(json["already_there"], false);
        // Once more: it is complete.
        let (status, stdout, stderr) = download(path, &[]);
        let mut again: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((status, again["already_there"].take()), (0, true.into()), "{stderr}");
        assert_eq!(again["file_size_bytes"], json["file_size_bytes"]);
        assert!(stderr.contains("complete already"), "{stderr}");
        // A file that someone has changed.
        fs::write(destination.join(file), "x").unwrap();
        let (status, stdout, stderr) = download(path, &[]);
        assert_eq!((status, stdout.as_str()), (1, ""));
        assert!(stderr.contains("exists") && stderr.contains("--force"), "{stderr}");
        assert_eq!(download(path, &["--force"]).0, 0);
        assert!(1 < fs::metadata(destination.join(file)).unwrap().len());
    }
    let gone = state.replace("weights/a", "sampler_weights/gone");
    let (status, _, stderr) = download(&gone, &[]);
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!((status, &error["error"]["message"]), (1, &format!("{gone} does not exist").into()));
    let remedy = error["error"]["try"].as_str().unwrap();
    assert!(remedy.starts_with(&format!("`tinkex checkpoint list {local}`")), "{stderr}");
    let (status, stdout, stderr) = download(&state, &["--as", "tar"]);
    assert_eq!(status, 0, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let archive = json["destination"].as_str().unwrap();
    assert!(archive.ends_with("_weights_a.tar"));
    assert_eq!(fs::metadata(archive).unwrap().len(), json["file_size_bytes"].as_u64().unwrap());
    let names = fs::read_dir(&output).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|it| !it.starts_with('.')).count(), 3);
}

#[test]
fn properties_of_the_download_are_on_stdout_and_progress_is_on_stderr() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::of("archive"), "\"v\""));
    let site = site("download-text", &storage);
    let (status, stdout, stderr) =
        site.run(&["checkpoint", "download", PATH, "--as", "tar", "--progress", "plain"]);
    assert_eq!(status, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..2],
        ["property\tvalue", &format!("Checkpoint\t{PATH}")].map(str::to_owned)[..].to_vec()
    );
    assert!(lines[2].ends_with(&format!("/{TAR}")), "{stdout}");
    assert_eq!(lines[3], "Size\t7");
    assert!(stderr.starts_with("preparing\n"), "{stderr}");
    for quiet in [["-q", "--force"], ["--progress=none", "--force"]] {
        let (_, _, stderr) =
            site.run(&[&["checkpoint", "download", PATH, "--as", "tar"], &quiet[..]].concat());
        assert_eq!(stderr, "");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_arrived_and_prints_the_command_that_goes_on() {
    let storage = Storage::start(|asked| {
        let content = Content::Generated(8 << 20);
        let reply = Reply::to(asked, &content, "\"v\"");
        if asked.n == 0 { reply.cut(1 << 20).stalling() } else { reply }
    });
    let site = site("download-signal", &storage);
    let part = site.home.join(format!("my out/{TAR}.part/files/archive"));
    let mut child = site
        .command(&["checkpoint", "download", PATH, "--as", "tar", "-o", "my out"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while fs::metadata(&part).map(|it| it.len()).unwrap_or(0) < 1 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "the program has ended");
        std::thread::yield_now();
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    let command = format!("  go on with: tinkex checkpoint download {PATH} --output 'my out' --as tar\n");
    assert!(stderr.ends_with(&command), "{stderr}");
    let (status, _, stderr) =
        site.run(&["checkpoint", "download", PATH, "--output", "my out", "--as", "tar"]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(storage.requests()[1].offset(), Some(1 << 20));
}

#[test]
fn a_download_whose_storage_is_gone_says_that_its_part_is_kept_and_how_to_go_on() {
    let is_gone = Arc::new(AtomicBool::new(true));
    let gone = is_gone.clone();
    let storage = Storage::start(move |asked| match (asked.n, gone.load(Ordering::SeqCst)) {
        (0, _) => Reply::to(asked, &Content::Generated(8 << 20), "\"v\"").cut(1 << 20),
        (_, true) => Reply::status(503, "gone").with("Retry-After", "0"),
        (_, false) => Reply::to(asked, &Content::Generated(8 << 20), "\"v\""),
    });
    let site = site("download-gone", &storage);
    let words = ["checkpoint", "download", PATH, "--as", "tar"];
    let (status, _, stderr) = site.run(&words);
    assert_eq!(status, 1, "{stderr}");
    let remedy = format!("`tinkex {}` goes on with what has arrived, which is kept\n", words.join(" "));
    assert!(stderr.ends_with(&remedy), "{stderr}");
    is_gone.store(false, Ordering::SeqCst);
    let (status, _, stderr) = site.run(&words);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(storage.requests().last().unwrap().offset(), Some(1 << 20));
}

/// The size is that of the environment variable `TINKEX_TEST_DOWNLOAD_BYTES`, by default 64 MiB.
#[test]
#[cfg(target_os = "linux")]
fn a_large_download_that_is_cut_fifty_times_stays_small_in_memory() {
    let size = std::env::var("TINKEX_TEST_DOWNLOAD_BYTES").map_or(64 << 20, |it| it.parse().unwrap());
    let refusals = AtomicUsize::new(0);
    let storage = Storage::start(move |asked| {
        // Each address expires after ten requests.
        let signature: usize = asked.target.rsplit('=').next().unwrap().parse().unwrap();
        let served = asked.n - refusals.load(Ordering::SeqCst);
        if signature < served / 10 {
            refusals.fetch_add(1, Ordering::SeqCst);
            return Reply::status(403, "<Error><Code>AccessDenied</Code></Error>");
        }
        let reply = Reply::to(asked, &Content::Generated(size), "\"v\"");
        if served < 50 { reply.cut(size / 51) } else { reply }
    });
    let site = site("download-large", &storage);
    let started = std::time::Instant::now();
    let mut child = site
        .command(&["checkpoint", "download", PATH, "--as", "tar", "-f", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kb = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_kb = peak_kb.max(kb.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let took = started.elapsed();
    let requests = storage.requests();
    let n_refused = requests.len() - 51;
    let text = format!(
        "{size} bytes, {} requests, {n_refused} refused, peak {peak_kb} kB, {took:.1?}",
        requests.len()
    );
    assert!(4 <= n_refused, "{text}");
    assert!(peak_kb < 30_000, "{text}");
    let mut file = fs::File::open(site.home.join(TAR)).unwrap();
    let mut found = vec![0; 64 << 10];
    for number in 0..size / (64 << 10) {
        file.read_exact(&mut found).unwrap();
        assert!(found == block(number), "block {number}");
    }
    assert_eq!(file.read(&mut found).unwrap(), (size % (64 << 10)) as usize);
}

/// A proxy that cuts the connections of downloads after a number of bytes. Returns its address and the heads of the
/// requests for downloads.
fn cutting_proxy(server: &str, cut: u64) -> (String, Arc<Mutex<Vec<String>>>) {
    fn forward(
        client: TcpStream,
        server: TcpStream,
        cut: u64,
        heads: &Mutex<Vec<String>>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? != 0 {}
        let is_download = head.starts_with("GET /download/");
        (&server).write_all(head.as_bytes())?;
        if is_download {
            heads.lock().unwrap().push(head.to_ascii_lowercase());
        }
        let (mut to_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
        std::thread::spawn(move || {
            // The end of either side is that of the other.
            let _ = std::io::copy(&mut reader, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut (&server).take(if is_download { cut } else { u64::MAX }), &mut to_client);
        client.shutdown(Shutdown::Both)?;
        server.shutdown(Shutdown::Both)
    }

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, server) = (format!("http://{}", listener.local_addr().unwrap()), server.replace("http://", ""));
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (server, seen) = (TcpStream::connect(&server).unwrap(), seen.clone());
            std::thread::spawn(move || forward(client, server, cut, &seen));
        }
    });
    (url, heads)
}

#[test]
fn a_download_from_the_engine_that_is_cut_again_and_again_goes_on_where_it_stopped() {
    const CUT: u64 = 300_000;
    let home = Folder::new("download-engine-cut");
    let (server, service) = engine(&home);
    let training = service.create_lora_training_client("tinkex/nano", LoraConfig::default()).unwrap();
    let path = training.save_state("a", Ttl::Never).wait().unwrap().path.to_string();
    service.close(CloseStatus::Success).unwrap();
    let (url, heads) = cutting_proxy(server.url(), CUT);
    let download = |url: &str, output: &str| {
        let output = home.join(output);
        let mut command = tinkex(&home);
        command.env("TINKER_API_KEY", server.api_key());
        command.args(["checkpoint", "download", &path, "--as", "tar", "--base-url", url, "-o"]).arg(&output);
        let done = command.output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{stderr}");
        let mut files = fs::read_dir(&output).unwrap().map(|it| it.unwrap().path());
        fs::read(files.find(|it| it.extension().is_some_and(|it| it == "tar")).unwrap()).unwrap()
    };
    let cut = download(&url, "cut");
    assert!(cut == download(server.url(), "whole"), "the archives differ");
    let heads = heads.lock().unwrap().clone();
    let n = cut.len() as u64 / CUT;
    assert!(
        2 <= n && n <= heads.len() as u64 && heads.len() as u64 <= n + 2,
        "{} bytes, {heads:?}",
        cut.len()
    );
    for head in &heads[1..] {
        assert!(head.contains("\r\nrange: bytes=") && head.contains("\r\nif-range: \""), "{head}");
    }
}

/// Runs the program with a limit of the size of its files, at which writing fails as on a full disk.
#[cfg(unix)]
fn run_with_small_files(site: &Site, kib: u64, args: &[&str]) -> (i32, String) {
    let program = site.command(args);
    let mut command = std::process::Command::new("sh");
    // A block has 512 bytes in some shells and 1024 in others. The signal at the limit ends a process by default.
    let line = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib);
    command.arg("-c").arg(line).arg(program.get_program()).args(program.get_args()).env_clear();
    command
        .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(&*site.home);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
#[cfg(unix)]
fn a_disk_that_is_full_is_named_with_the_file_and_the_download_goes_on_when_there_is_room() {
    const SIZE: u64 = 8 << 20;
    let storage = Storage::start(|asked| Reply::to(asked, &Content::Generated(SIZE), "\"v\""));
    let site = site("download-full", &storage);
    let words = ["checkpoint", "download", PATH, "--as", "tar"];
    let (status, stderr) = run_with_small_files(&site, 1024, &words);
    assert_eq!(status, 1, "{stderr}");
    let file = format!("{TAR}.part/files/archive");
    assert!(stderr.contains(&format!("cannot write ./{file}: File too large")), "{stderr}");
    assert!(stderr.contains("what has arrived is kept"), "{stderr}");
    let kept = fs::metadata(site.home.join(&file)).unwrap().len();
    assert!((512 << 10..SIZE).contains(&kept), "{kept}");
    assert!(!site.home.join(TAR).exists());
    let (status, _, stderr) = site.run(&words);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(storage.requests().last().unwrap().offset(), Some(kept));
    assert_eq!(fs::metadata(site.home.join(TAR)).unwrap().len(), SIZE);
    assert!(!site.home.join(format!("{TAR}.part")).exists());
}

#[test]
fn a_checkpoint_that_was_saved_anew_under_its_path_is_not_taken_for_the_download() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::of("archive"), "\"v\""));
    let site = Site::new("download-anew");
    let (url, day) = (storage.url("/archive.tar"), Arc::new(AtomicUsize::new(1)));
    let today = day.clone();
    site.react(move |seen| {
        let expires = Timestamp::from(SystemTime::now() + Duration::from_secs(900)).to_string();
        let time = format!("2026-11-{:02}T00:00:00Z", today.load(Ordering::SeqCst));
        let list =
            json!({ "checkpoints": [{ "tinker_path": PATH, "checkpoint_id": "weights/a", "time": time }] });
        match seen.path.split('?').next()?.rsplit('/').next()? {
            "archive" => Some(Act::json(json!({ "url": url, "expires": expires }))),
            "checkpoints" => Some(Act::json(list)),
            _ => None,
        }
    });
    let words = ["checkpoint", "download", PATH, "--as", "tar"];
    let download = || site.run(&words);
    let n_archives = || storage.requests().len();
    assert_eq!(download().0, 0);
    let (first, (status, stdout, stderr)) = (n_archives(), download());
    assert_eq!((status, n_archives()), (0, first), "{stderr}");
    assert!(stdout.contains(&format!("/{TAR}\n")) && stderr.contains("complete already"), "{stdout}{stderr}");
    day.store(2, Ordering::SeqCst);
    let (status, stdout, stderr) = download();
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("newer") && stderr.contains("try: --force"), "{stderr}");
    // A file of the same name whose origin is not known.
    fs::remove_file(site.home.join(TAR)).unwrap();
    fs::write(site.home.join(TAR), "archive").unwrap();
    assert_eq!(download().0, 1);
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named_as_it_was_given() {
    let site = Site::new("download-file");
    fs::write(site.home.join("out"), "").unwrap();
    let (status, _, stderr) = site.run(&["checkpoint", "download", PATH, "-o", "out"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("-o out is a file") && !stderr.contains(".part"), "{stderr}");
    let (status, _, stderr) = site.run(&["checkpoint", "download", PATH, "-o", "out/below"]);
    assert!(status == 1 && stderr.contains("folder out/below: ") && !stderr.contains(".part"), "{stderr}");
    assert_eq!(site.server.requests().len(), 0);
}

#[test]
fn an_archive_that_the_server_does_not_make_is_refused_before_anything_is_sent_to_the_storage() {
    let storage = Storage::start(|asked| Reply::to(asked, &Content::of("file"), "\"v\""));
    let site = Site::new("download-as-tar");
    let url = storage.url("/adapter_model.safetensors");
    site.react(move |seen| {
        let path = seen.path.split('?').next()?;
        match path.rsplit('/').next()? {
            "archive" => Some(Act::status(404, r#"{"detail":"no archives"}"#)),
            "external_weights_urls" => {
                Some(Act::json(json!({ "urls": { "adapter_model.safetensors": url } })))
            }
            _ => None,
        }
    });
    for path in [PATH, "tinker://s:train:0/external_weights/a"] {
        let (status, stdout, stderr) = site.run(&["checkpoint", "download", path, "--as", "tar"]);
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("archive") && stderr.contains("  try: --as dir"), "{stderr}");
    }
    assert!(storage.requests().is_empty());
    assert!(site.server.requests_to("/api/v1/create_session").is_empty(), "no export was made");
    let mut left =
        fs::read_dir(&*site.home).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    assert!(left.all(|it| !it.ends_with(".part")), "nothing is left");
}

#[test]
fn a_state_that_does_not_exist_is_refused_without_a_session() {
    let home = Folder::new("download-none");
    drop(engine(&home));
    let local = format!("--local={}", home.join("engine").display());
    for path in ["tinker://none:train:0/weights/x", "tinker://none:train:0/sampler_weights/x"] {
        let (status, _, stderr) = run(&home, &["checkpoint", "download", path, &local]);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains(&format!("{path} does not exist")), "{stderr}");
    }
    let (_server, service) = engine(&home);
    assert_eq!(service.create_rest_client().list_sessions().count(), 0);
}
