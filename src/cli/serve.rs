//! `tinkex serve`: the engine as a server for programs in other languages.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use serde_json::json;
use tinkex::local::{Options, Server};

use super::connection::App;
use super::failure::Failure;
use super::shell_word::{in_quotes, quoted};
use super::{nearby_files, wording};

/// Environment variable with the key that requests must carry.
const KEY_VARIABLE: &str = "TINKEX_SERVE_KEY";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to listen on; 0 for any free port
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// IP address to listen on; any other than a loopback address lets other machines in, and nothing is encrypted
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Folder of the checkpoints, whose engine commands with --local=DIR use meanwhile [default: a temporary folder,
    /// removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the key that requests must carry [env: TINKEX_SERVE_KEY] [default: a random key]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Accept every key, on a loopback address only
    #[arg(long, conflicts_with = "api_key_file")]
    any_key: bool,
    /// Name of this machine that requests may use, besides localhost
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Model to serve besides tinkex/nano: a folder with config.json and safetensors
    #[arg(long, value_name = "NAME=FOLDER", value_parser = pair)]
    model: Vec<(String, String)>,
    /// Serve all models in this folder and the folders in it, by their names there
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// Another name of a served model, such as Qwen/Qwen3-8B=tinkex/nano
    #[arg(long, value_name = "NAME=MODEL", value_parser = pair)]
    alias: Vec<(String, String)>,
    /// Number of compute threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    threads: Option<usize>,
    /// Seed of the weights of tinkex/nano
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Flag that clients are told, on or off: sample_use_retrieve_futures, sample_join_sampling_session,
    /// pjwt_auth_enabled, sample_cancel_enabled
    #[arg(long, value_name = "NAME=BOOL")]
    flag: Vec<String>,
    /// Serve the loss stable_reinforce, whose formula is not public, by cispo
    #[arg(long)]
    stable_reinforce_as_cispo: bool,
    /// Number of an open file to which the address is written as soon as requests are served
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    /// Stop when the standard input is closed, and so with the program that holds it
    #[arg(long)]
    stop_with_stdin: bool,
}

/// The source of the key.
#[derive(Debug, PartialEq)]
enum Key {
    Random,
    Any,
    /// The shell command that prints it, and the key.
    Given(String, String),
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    if app.global.base_url.is_some() || app.global.local.is_some() {
        return Err(Failure::usage("`serve` is the server itself")
            .with_remedy("leave --base-url and --local out; --data-dir names the folder"));
    }
    let variable = std::env::var(KEY_VARIABLE).ok().filter(|it| !it.is_empty());
    let key = if args.any_key { Key::Any } else { key(args.api_key_file.as_deref(), variable, app)? };
    if !args.host.is_loopback() && matches!(key, Key::Random | Key::Any) {
        return Err(Failure::usage(format!("other machines can reach {}, so a key is needed", args.host))
            .with_remedy(format!(
                "--api-key-file key.txt, a file with a key that you choose, or set {KEY_VARIABLE}"
            )));
    }
    let ready = args.ready_fd.map(open_descriptor).transpose()?;
    let (host, port) = (args.host, args.port);
    let stop_with_stdin = args.stop_with_stdin;
    let waiter = Waiter::new(stop_with_stdin)?;
    let folder = args.data_dir.as_ref().map(|dir| quoted(&dir.display().to_string())).unwrap_or_default();
    let mut options = options(args)?;
    if let Key::Given(_, key) = &key {
        options.api_key = Some(key.clone());
    }
    // From here on a signal stops the server; a second one ends the process.
    if cfg!(unix) {
        app.stop.defer();
    }
    let server = Server::start(options).map_err(|error| {
        let has = |text| error.message().contains(text);
        let remedy = if has("cannot listen") && port != 0 {
            Some("--port 0, for any free port; or another one".to_owned())
        } else if has("is in use by another engine") {
            Some(format!(
                "commands with --local={folder} use that engine; or another folder: --data-dir {folder}-2"
            ))
        } else {
            None
        };
        let failure = if has("aliases: the alias") {
            Failure::usage(format!(
                "--alias: {}",
                wording::message(&error).replace("the engine's aliases: ", "")
            ))
        } else {
            Failure::from(error)
        };
        match remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        }
    })?;
    if !host.is_loopback() {
        app.note(&format!(
            "warning: other machines can reach {host}; nothing is encrypted, not even the key"
        ));
    }
    announce(app, &server, &key)?;
    app.note("ready");
    if let Some(mut file) = ready {
        writeln!(file, "{}", server.url())
            .map_err(|error| Failure::text(format!("cannot write to --ready-fd: {error}")))?;
    }
    waiter.wait(app);
    let again = app.stop.again().map(|again| format!("; {again} to stop at once")).unwrap_or_default();
    app.note(&format!("stopping: what is being computed is finished first{again}"));
    server.stop();
    Ok(())
}

/// Prints the lines to paste. A key that was given stays where it is: what is printed may be kept in logs.
fn announce(app: &App, server: &Server, key: &Key) -> Result<(), Failure> {
    let (shown, value) = match key {
        Key::Random | Key::Any => (server.api_key().to_owned(), Some(server.api_key())),
        Key::Given(source, _) => (source.clone(), None),
    };
    let json = json!({ "base_url": server.url(), "api_key": value });
    app.out.value(&json, || format!("export TINKER_BASE_URL={}\nexport TINKER_API_KEY={shown}", server.url()))
}

fn options(args: Args) -> Result<Options, Failure> {
    let mut options = Options {
        listen: args.host,
        port: args.port,
        data_dir: args.data_dir,
        allowed_hosts: args.allow_host,
        seed: args.seed,
        threads: args.threads.unwrap_or(0),
        any_key: args.any_key,
        stable_reinforce_as_cispo: args.stable_reinforce_as_cispo,
        ..Default::default()
    };
    for folder in &args.models {
        let found = models_in(folder)?;
        if found.is_empty() {
            return Err(Failure::usage(format!("{} has no model", folder.display()))
                .with_remedy("a model is a folder with config.json"));
        }
        options.models.extend(found);
    }
    options.models.extend(args.model.into_iter().map(|(name, folder)| (name, folder.into())));
    options.aliases.extend(args.alias);
    args.flag.iter().try_for_each(|flag| set_flag(&mut options, flag).map_err(Failure::usage))?;
    Ok(options)
}

/// Sets a flag by `NAME=true`, `NAME=false`, or `NAME`, which means true.
fn set_flag(options: &mut Options, flag: &str) -> Result<(), String> {
    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
    let value = match value {
        "true" | "1" | "on" => true,
        "false" | "0" | "off" => false,
        other => return Err(format!("--flag {name}: {other:?} is neither true nor false")),
    };
    let place = match name {
        "sample_use_retrieve_futures" => &mut options.sample_use_retrieve_futures,
        "sample_join_sampling_session" => &mut options.sample_join_sampling_session,
        "pjwt_auth_enabled" => &mut options.pjwt_auth_enabled,
        "sample_cancel_enabled" => &mut options.sample_cancel_enabled,
        other => return Err(format!("--flag {other:?} is unknown; see `tinkex serve --help`")),
    };
    *place = value;
    Ok(())
}

/// The two sides of a value with an equals sign.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        _ => Err("needs two sides with = between them".into()),
    }
}

/// The models in a folder and in its folders: `llama`, or `Qwen/Qwen3-0.6B`.
fn models_in(folder: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let folders_in = |folder: &Path| -> std::io::Result<Vec<PathBuf>> {
        let paths = std::fs::read_dir(folder)?.map(|it| it.map(|it| it.path()));
        let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
        paths.retain(|it| it.is_dir());
        paths.sort();
        Ok(paths)
    };
    let cannot = |error: std::io::Error| Failure::text(format!("cannot read {}: {error}", folder.display()));
    let is_model = |path: &Path| path.join("config.json").is_file();
    let mut found = Vec::new();
    for path in folders_in(folder).map_err(cannot)? {
        let candidates = if is_model(&path) { vec![path] } else { folders_in(&path).map_err(cannot)? };
        for path in candidates.into_iter().filter(|it| is_model(it)) {
            if let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                found.push((name.replace('\\', "/"), path));
            }
        }
    }
    Ok(found)
}

/// The key of the file, or else of the variable.
fn key(file: Option<&Path>, variable: Option<String>, app: &App) -> Result<Key, Failure> {
    match (file, variable) {
        (Some(file), _) => {
            let key = read_key(file, app)?;
            // The line is for other shells, which are in other folders.
            let from_everywhere = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            Ok(Key::Given(format!("\"$(cat {})\"", in_quotes(&from_everywhere.to_string_lossy())), key))
        }
        (None, Some(key)) => Ok(Key::Given(format!("\"${KEY_VARIABLE}\""), key)),
        (None, None) => Ok(Key::Random),
    }
}

fn read_key(path: &Path, app: &App) -> Result<String, Failure> {
    let shown = path.display();
    let cannot = |error: std::io::Error| Failure::text(format!("cannot read the key file {shown}: {error}"));
    let mut file = File::open(path).map_err(|error| nearby_files::explained(cannot(error), path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = file.metadata().map_err(cannot)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            app.note(&format!("warning: other users may read {shown} (mode {mode:03o}): chmod 600 {shown}"));
        }
    }
    #[cfg(not(unix))]
    let _ = app;
    let mut key = String::new();
    file.read_to_string(&mut key).map_err(cannot)?;
    match key.trim() {
        "" => Err(Failure::text(format!("the key file {shown} is empty"))),
        key => Ok(key.into()),
    }
}

/// Opens a file that the process has open already, by its number.
fn open_descriptor(number: u32) -> Result<File, Failure> {
    let opened = OpenOptions::new().write(true).open(format!("/dev/fd/{number}"));
    opened.map_err(|error| Failure::usage(format!("--ready-fd {number} is not open for writing: {error}")))
}

/// Waits for a signal, or for the end of the standard input.
struct Waiter {
    #[cfg(unix)]
    signals: std::os::unix::net::UnixStream,
    #[cfg(not(unix))]
    stops_with_stdin: bool,
}

#[cfg(unix)]
impl Waiter {
    fn new(stop_with_stdin: bool) -> Result<Self, Failure> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        use std::os::unix::net::UnixStream;
        let cannot = |error: std::io::Error| Failure::text(format!("cannot handle signals: {error}"));
        let (signals, sender) = UnixStream::pair().map_err(cannot)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let sender = sender.try_clone().map_err(cannot)?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(cannot)?;
        }
        if stop_with_stdin {
            let read = move || {
                wait_for_stdin();
                // The reader of the pair is there until the process ends.
                let _ = (&sender).write_all(b"x");
            };
            let thread = std::thread::Builder::new().name("tinkex-stdin".into()).spawn(read);
            thread.map_err(cannot)?;
        }
        Ok(Waiter { signals })
    }

    fn wait(self, app: &App) {
        let mut byte = [0];
        while let Err(error) = (&self.signals).read(&mut byte) {
            // Without the pair there is still the flag.
            if error.kind() != std::io::ErrorKind::Interrupted || app.stop.is_asked() {
                break;
            }
        }
    }
}

/// Ctrl-C ends the process.
#[cfg(not(unix))]
impl Waiter {
    fn new(stop_with_stdin: bool) -> Result<Self, Failure> {
        Ok(Waiter { stops_with_stdin: stop_with_stdin })
    }

    fn wait(self, _app: &App) {
        if self.stops_with_stdin {
            wait_for_stdin();
        } else {
            loop {
                std::thread::park();
            }
        }
    }
}

/// Reads the standard input to its end.
fn wait_for_stdin() {
    // An error ends the input, too.
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_on_or_off_and_others_are_refused() {
        let mut options = Options::default();
        for flag in ["pjwt_auth_enabled", "sample_use_retrieve_futures=on", "sample_cancel_enabled=false"] {
            assert_eq!(set_flag(&mut options, flag), Ok(()));
        }
        assert!(options.pjwt_auth_enabled && options.sample_use_retrieve_futures);
        assert!(!options.sample_cancel_enabled);
        assert!(set_flag(&mut options, "pjwt_auth_enabled=maybe").is_err());
        assert!(set_flag(&mut options, "speed=9").is_err());
    }
}
