//! `longshore exec -it` and `longshore attach -it`, with somebody at a terminal.

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::{
    daemon::binary,
    terminal::{LEADER, Terminal},
};

use crate::streams::{OUTPUT, sleeper};

const SOCKET: &str = "unix:///run/longshore/longshore.sock";

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// Sits down and types a command of ours.
fn at_a_terminal(host: &Host, words: &[&str]) -> anyhow::Result<Terminal> {
    at_a_terminal_of(host, words, 24, 80)
}

fn at_a_terminal_of(
    host: &Host,
    words: &[&str],
    rows: u16,
    columns: u16,
) -> anyhow::Result<Terminal> {
    let mut command = host.sandbox.command(LEADER[0]);
    command.args(&LEADER[1..]).arg(binary("longshore")?);
    command.args(["-r", SOCKET]).args(words);
    Terminal::start(command, rows, columns)
}

fn exec_at_a_terminal(
    host: &Host,
    id: &str,
    transport: &str,
    command: &[&str],
) -> anyhow::Result<Terminal> {
    let words = ["exec", "-it", "--transport", transport, id];
    at_a_terminal(host, &[&words, command].concat())
}

/// Our command that has this argument.
fn client(host: &Host, argument: &str) -> anyhow::Result<u32> {
    let processes = host.sandbox.processes();
    let ours = processes
        .iter()
        .find(|one| one.name == "longshore" && one.args.iter().any(|arg| arg == argument));
    Ok(ours.context("the client does not run")?.pid)
}

#[test]
fn the_window_is_followed_and_the_exit_code_passed_on() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "window").await?;
        let script = "echo ready; while read word; do stty size; done; exit 7";
        for transport in TRANSPORTS {
            let mut terminal = exec_at_a_terminal(host, &id, transport, &["sh", "-c", script])?;
            terminal.shows("ready\r\n")?;
            terminal.until_raw()?;
            // The size is on its way still: asked until it is there.
            let until = |terminal: &mut Terminal, size: &str| loop {
                terminal.types(b"\r")?;
                // The echo of what was typed, and the answer.
                terminal.shows("\r\n")?;
                let shown = terminal.shows("\r\n")?;
                if shown == format!("{size}\r\n") {
                    return anyhow::Ok(());
                }
            };
            until(&mut terminal, "24 80")?;
            // Where one has a single row, busybox's stty says 24.
            for (rows, columns) in [(50, 132), (2, 2), (300, 400)] {
                terminal.resize(rows, columns)?;
                until(&mut terminal, &format!("{rows} {columns}"))?;
            }
            // Far more of them than anybody follows; the last counts.
            for rows in 1..500 {
                terminal.resize(rows, 99)?;
            }
            until(&mut terminal, "499 99")?;
            terminal.types(b"\x04")?;
            assert_eq!(terminal.ends()?.code(), Some(7), "{transport}");
            ensure!(terminal.is_as_before()?);
        }
        Ok(())
    });
}

#[test]
fn keys_go_through_as_they_are_typed() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "keys").await?;
        for transport in TRANSPORTS {
            // The command's own terminal makes a signal of Ctrl-C, not ours.
            let script = "trap 'echo interrupted' INT; trap 'exit 9' QUIT; echo ready; while :; do sleep 0.02; done";
            let mut terminal = exec_at_a_terminal(host, &id, transport, &["sh", "-c", script])?;
            terminal.shows("ready")?;
            terminal.until_raw()?;
            for _ in 0..3 {
                terminal.types(b"\x03")?;
                terminal.shows("interrupted")?;
            }
            terminal.types(b"\x1c")?;
            assert_eq!(terminal.ends()?.code(), Some(9), "{transport}");
            ensure!(terminal.is_as_before()?);
        }
        Ok(())
    });
}

#[test]
fn signals_and_detaching_give_the_terminal_back() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "signals").await?;
        for transport in TRANSPORTS {
            for (signal, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)] {
                let mark = format!("{number}0{number}");
                let mut terminal = cat_at_a_terminal(host, &id, transport, &mark)?;
                host.sandbox.kill(signal, &[client(host, &mark)?])?;
                assert_eq!(terminal.ends()?.code(), Some(128 + number), "{signal}");
                ensure!(terminal.is_as_before()?, "{signal} leaves it raw");
            }
            // Typed at once or one by one, after other keys and after half of themselves.
            for (mark, keys) in [
                ("401", &["\x10\x11"][..]),
                ("402", &["x\x10", "\x11"]),
                ("403", &["\x10", "y\x10\x10", "\x11"]),
            ] {
                let mut terminal = cat_at_a_terminal(host, &id, transport, mark)?;
                for some in keys {
                    terminal.types(some.as_bytes())?;
                }
                assert_eq!(terminal.ends()?.code(), Some(0), "{keys:?}");
                ensure!(terminal.is_as_before()?, "{keys:?} leave it raw");
            }
            // The window is closed.
            let mut terminal = cat_at_a_terminal(host, &id, transport, "501")?;
            terminal.hang_up();
            assert_eq!(terminal.ends()?.code(), Some(129));
        }
        Ok(())
    });
}

/// A command that says back what is typed, with an argument to find its client by.
fn cat_at_a_terminal(
    host: &Host,
    id: &str,
    transport: &str,
    mark: &str,
) -> anyhow::Result<Terminal> {
    let words = ["sh", "-c", "cat", mark];
    let mut terminal = exec_at_a_terminal(host, id, transport, &words)?;
    terminal.until_raw()?;
    terminal.types(b"hello\r")?;
    terminal.shows("hello\r\nhello\r\n")?;
    Ok(terminal)
}

#[test]
fn keys_detach_although_nobody_reads_what_was_typed() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "unread").await?;
        for transport in TRANSPORTS {
            let script = "stty raw; echo ready; exec sleep 7601";
            let mut terminal = exec_at_a_terminal(host, &id, transport, &["sh", "-c", script])?;
            terminal.shows("ready")?;
            terminal.until_raw()?;
            // What a terminal holds for its program is some KiB.
            terminal.types(&[b'x'; 100_000])?;
            terminal.types(b"\x10\x11")?;
            assert_eq!(terminal.ends()?.code(), Some(0), "{transport}");
            ensure!(terminal.is_as_before()?);
        }
        Ok(())
    });
}

#[test]
fn a_screen_that_nobody_reads_keeps_no_signal_out() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "unseen").await?;
        for transport in TRANSPORTS {
            let script = "head -c 150000 /dev/zero | tr '\\0' x; sleep 0.1";
            let words = ["sh", "-c", script, "701"];
            let mut terminal = exec_at_a_terminal(host, &id, transport, &words)?;
            terminal.until_raw()?;
            terminal.shows("xxx")?;
            // Also once the command is over, and its client has but to show the rest.
            std::thread::sleep(std::time::Duration::from_millis(500));
            host.sandbox.kill("TERM", &[client(host, "701")?])?;
            assert_eq!(terminal.ends_unseen()?.code(), Some(143), "{transport}");
            ensure!(terminal.is_as_before()?);
        }
        Ok(())
    });
}

#[test]
fn a_lost_connection_gives_the_terminal_back() {
    scenario(async |host| {
        for transport in TRANSPORTS {
            let (_, id) = sleeper(host, &format!("lost-{transport}")).await?;
            // The container is stopped.
            let mut terminal = cat_at_a_terminal(host, &id, transport, "801")?;
            host.cri.stop(&id, 0).await?;
            assert_eq!(terminal.ends()?.code(), Some(137));
            ensure!(terminal.is_as_before()?);

            // The network answers with a reset.
            let (_, id) = sleeper(host, &format!("reset-{transport}")).await?;
            let url = host.cri.exec_url(&id, &["true"], OUTPUT).await?;
            let port = url.split([':', '/']).nth(4).context("the URL has a port")?;
            let mut terminal = cat_at_a_terminal(host, &id, transport, "802")?;
            host.sandbox.sh(&format!(
                "nft add table inet cut; nft add chain inet cut in '{{ type filter hook input priority 0; }}'; \
                 nft add rule inet cut in tcp dport {port} reject with tcp reset"
            ))?;
            terminal.types(b"x")?;
            assert_eq!(terminal.ends()?.code(), Some(1));
            ensure!(terminal.is_as_before()?);
            let said = terminal.rest()?;
            ensure!(said.contains("the connection to the server"), "{said}");
            host.sandbox.sh("nft delete table inet cut")?;

            // The daemon is gone, without a word.
            let mut terminal = cat_at_a_terminal(host, &id, transport, "803")?;
            host.daemon.kill();
            assert_eq!(terminal.ends()?.code(), Some(1));
            ensure!(terminal.is_as_before()?);
            host.start_daemon().await?;

            // It is told to end, and says so.
            let mut terminal = cat_at_a_terminal(host, &id, transport, "804")?;
            host.daemon.terminate()?;
            assert_eq!(terminal.ends()?.code(), Some(1));
            ensure!(terminal.is_as_before()?);
            let said = terminal.rest()?;
            ensure!(said.contains("shutting down"), "{said}");
            host.start_daemon().await?;
        }
        Ok(())
    });
}

/// Asks a shell that says `<>` and its terminal's size until that is this one: whoever has told it is attached by then.
fn until_size(typist: &mut Terminal, size: &str) -> anyhow::Result<()> {
    loop {
        typist.types(b"\r")?;
        typist.shows("<>\r\n")?;
        if typist.shows("\r\n")? == format!("{size}\r\n") {
            return Ok(());
        }
    }
}

#[test]
fn attached_terminals_share_a_container_and_leave_it_alone() {
    scenario(async |host| {
        let pod = PodSettings::new("shared");
        let pod_id = host.run_pod(&pod).await?;
        let script = "while read word; do echo \"<$word>\"; stty size; done";
        let settings = ContainerSettings::sh("main", script).edited(|config| {
            config.stdin = true;
            config.tty = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        for transport in TRANSPORTS {
            let attach = ["attach", "-it", "--transport", transport, &id];
            let mut one = at_a_terminal(host, &attach)?;
            one.until_raw()?;
            until_size(&mut one, "24 80")?;
            // A terminal is raw before its client is heard of at the container, where nothing is repeated.
            let mut other = at_a_terminal_of(host, &attach, 20, 70)?;
            other.until_raw()?;
            until_size(&mut one, "20 70")?;
            for (typing, word) in [(true, "one"), (false, "two")] {
                let typist = if typing { &one } else { &other };
                typist.types(format!("{word}\r").as_bytes())?;
                for terminal in [&mut one, &mut other] {
                    terminal.shows(&format!("<{word}>\r\n"))?;
                }
            }
            one.resize(33, 44)?;
            until_size(&mut one, "33 44")?;
            // What is typed before the keys gets through.
            one.types(b"last\r\x10\x11")?;
            assert_eq!(one.ends()?.code(), Some(0));
            ensure!(one.is_as_before()?);
            other.shows("<last>\r\n")?;
            host.sandbox
                .kill("TERM", &[client(host, transport)?])
                .context("the other")?;
            assert_eq!(other.ends()?.code(), Some(143));
            ensure!(other.is_as_before()?);
        }
        let mut last = at_a_terminal(host, &["attach", "-it", &id])?;
        last.until_raw()?;
        last.types(b"still there\r")?;
        last.shows("<still there>\r\n")?;
        host.cri.stop(&id, 0).await?;
        assert_eq!(last.ends()?.code(), Some(0));
        ensure!(last.is_as_before()?);
        Ok(())
    });
}

#[test]
fn a_terminal_is_not_to_be_had_without_one() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "none").await?;
        for words in [
            &["exec", "-it", &id, "sh"][..],
            &["exec", "-t", &id, "sh"],
            &["attach", "-it", &id],
        ] {
            let mut command = host.sandbox.command(binary("longshore")?);
            let output = command.args(["-r", SOCKET]).args(words).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
            ensure!(said.contains("-t needs -i"), "{said}");
        }
        Ok(())
    });
}
