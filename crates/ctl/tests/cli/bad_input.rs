//! Bad input, from a table (`bad_input.toml`): one line that says what and what to do, the exit code, and no more.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde::Deserialize;

use crate::terminal::OnTerminal;
use crate::{Bench, Outcome, longshore};

#[derive(Deserialize)]
struct Table {
    files: BTreeMap<String, String>,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    at: Option<String>,
    words: Vec<String>,
    code: i32,
    crictl: Option<i32>,
    says: Vec<String>,
}

/// An HTTP/2 frame of a stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

/// A server's settings, all at their default.
fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// `:status: 200` and a content type of so many letters, in HPACK without compression.
fn headers(content_type: &str) -> Vec<u8> {
    let mut block = vec![0x88, 0x0f, 0x10, u8::try_from(content_type.len()).unwrap()];
    block.extend_from_slice(content_type.as_bytes());
    frame(1, 4, 1, &block)
}

/// What a server says to whoever connects. `None`: it takes nothing and says nothing.
fn speech(kind: &str) -> Option<Vec<u8>> {
    Some(match kind {
        "http1" => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "noise" => (0..=255).rev().cycle().take(4096).collect(),
        "closing" => Vec::new(),
        "handshake" => settings(),
        "nonsense" => {
            // A message of three bytes that is none, on the first call's stream; then the end of all.
            let message = frame(0, 1, 1, &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]);
            [settings(), headers("application/grpc"), message].concat()
        }
        "web" => [settings(), headers("text/html"), frame(0, 1, 1, b"<html>")].concat(),
        _ => return None,
    })
}

/// Answers a connection: the answer to a call follows the call.
fn answer(mut stream: UnixStream, kind: &str, speech: &[u8]) {
    let begin = match kind {
        "nonsense" | "web" => {
            let begin = settings().len();
            let _ = stream.write_all(&speech[..begin]);
            // The call's headers: the first frame of that kind behind the preface.
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while !seen.windows(9).any(|w| w[3] == 1 && w[5..] == [0, 0, 0, 1]) {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
                    _ => return,
                }
            }
            begin
        }
        _ => 0,
    };
    let _ = stream.write_all(&speech[begin..]);
    if kind != "closing" {
        // Until the client has heard enough.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
}

/// What a client connects to.
fn endpoint(directory: &Path, kind: &str) -> PathBuf {
    let path = directory.join(format!("{kind}.sock"));
    if path.exists() {
        return path;
    }
    match kind {
        "missing" => {}
        "dead" => drop(UnixListener::bind(&path).unwrap()),
        "file" => fs::write(&path, "").unwrap(),
        "directory" => fs::create_dir(&path).unwrap(),
        _ => {
            let listener = UnixListener::bind(&path).unwrap();
            let kind = kind.to_owned();
            // It ends with the test's process; a client of a silent one is never taken.
            thread::spawn(move || match speech(&kind) {
                Some(speech) => {
                    for stream in listener.incoming().flatten() {
                        let (kind, speech) = (kind.clone(), speech.clone());
                        thread::spawn(move || answer(stream, &kind, &speech));
                    }
                }
                None => loop {
                    thread::park();
                    drop(listener.try_clone());
                },
            });
        }
    }
    path
}

#[test]
fn bad_input_is_one_line_and_an_exit_code() {
    let bench = Bench::start();
    let table: Table = toml::from_str(include_str!("bad_input.toml")).unwrap();
    for (name, text) in &table.files {
        match text.as_str() {
            "@deep" => bench.write(name, &"[".repeat(100_000)),
            text => bench.write(name, text),
        };
    }
    let crictl = bench.path("crictl");
    symlink(env!("CARGO_BIN_EXE_longshore"), &crictl).unwrap();
    let mut wrong = Vec::new();
    for case in &table.case {
        let at = match case.at.as_deref() {
            None => bench.path("cri.sock"),
            Some(at) if at.contains("://") => at.into(),
            Some(at) => endpoint(bench.directory.path(), at),
        };
        let words = case.words.iter().map(|word| match word.strip_prefix('@') {
            Some(file) => bench.path(file).display().to_string(),
            None => word.clone(),
        });
        let words: Vec<_> = words.collect();
        for program in ["longshore", "crictl"] {
            let mut command = match program {
                "crictl" => Command::new(&crictl),
                _ => longshore(),
            };
            if program == "crictl" && words.first().is_none_or(|word| word != "-c") {
                // The machine may have one of its own.
                command.args(["-c", "/dev/null"]);
            }
            command.arg("-r").arg(&at).args(&words).stdin(Stdio::null());
            let outcome = Outcome::of(command.output().unwrap());
            let code = match program {
                "crictl" => case.crictl.unwrap_or(1),
                _ => case.code,
            };
            let lines: Vec<_> = outcome.stderr.lines().collect();
            let said = matches!(&*lines, [line] if line.starts_with(&format!("{program}: "))
                && case.says.iter().all(|part| line.contains(part.as_str())));
            // Where crictl fails with 0 it shows its help.
            let helps = code == 0 && outcome.stdout.contains("Usage: crictl");
            if outcome.code != code || !said || helps == outcome.stdout.is_empty() {
                wrong.push(format!("{}, as {program}: {outcome:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(bench.fake.calls().is_empty(), "something was asked for");
}

/// Whatever the list, whoever reads it goes away.
#[test]
fn a_pipe_that_breaks_is_no_error() {
    let bench = Bench::start();
    for words in [
        &["ps", "-a"][..],
        &["pods", "-o", "json"],
        &["images", "-o", "yaml"],
        &["inspect", "client"],
        &["stats"],
        &["completion", "bash"],
        &["version"],
    ] {
        let mut command = bench.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (0, ""),
            "{words:?}"
        );
        // Nobody to complain to either.
        let mut command = bench.command(&[words, &["--nonsense"]].concat());
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(2), "{words:?}");
    }
}

/// As some serial consoles are, and every terminal before its size is known.
#[test]
fn a_terminal_of_no_size_is_drawn_on() {
    let bench = Bench::start();
    for (words, shows, key) in [
        (&["ps", "-a"][..], "server", None),
        (&["images"], "IMAGE", None),
        (&["pods", "-v"], "web", None),
        (&["--help"], "Usage", None),
        (&["top"], "server", Some(b"q")),
        (&["pull", "busybox"], "busybox", None),
    ] {
        let mut terminal = OnTerminal::start_sized(0, 0, |inner| {
            let mut command = bench.command(words);
            command
                .stdin(inner.try_clone().unwrap())
                .stdout(inner.try_clone().unwrap())
                .stderr(inner);
            command
        });
        terminal.read_until(shows);
        if let Some(key) = key {
            terminal.type_in(key);
        }
        let (_, drawn) = terminal.end();
        assert!(!drawn.contains("panicked"), "{words:?}: {drawn}");
    }
}
