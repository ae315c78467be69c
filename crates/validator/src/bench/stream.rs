//! Streams: round trips, throughput, many at once, and memory, through the runtime's own URLs.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use streaming::client::{
    self, ClientError, Forwarded, Forwarder, Options, Session, Transport, Wanted,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    BenchError, Machine, Subject, Summary,
    calls::Calls,
    census::{Census, Memory},
    pods::{Measured, begin, ensure_image, machine, pods_scratch, remove_all},
    reference,
    samples::{Samples, milliseconds},
    stop::Stop,
    throughput::{Throughput, drain, median, pour},
    workload::{Network, Workload},
};

/// What `bench stream` does at each endpoint.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Must have `sh`, `sleep`, `cat`, `dd` and `true`. Pulled where it is missing.
    pub image: String,
    /// Round trips of one byte.
    pub round_trips: usize,
    /// Bytes sent each way.
    pub bytes: u64,
    /// How often they are, over each transport, each time beside a plain TCP copy.
    pub turns: usize,
    /// Commands at once.
    pub execs: usize,
    /// Forwarded connections at once.
    pub connections: usize,
    /// Commands, and then forwarded connections, that idle while memory is looked at.
    pub idle: usize,
    /// How long the daemon is left in peace before its memory is looked at, so that it can give back what it has free.
    pub settle: Duration,
    /// RuntimeClass handler; empty for the default.
    pub handler: String,
    /// Cgroup parent of the pod; empty for the runtime's own choice.
    pub cgroup_parent: String,
    /// For the pod's files; the runtimes must see it.
    pub directory: PathBuf,
}

/// What a run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct StreamReport {
    /// Where it ran.
    pub machine: Machine,
    /// The same without a runtime.
    pub reference: ReferenceReport,
    /// Each endpoint over each transport.
    pub subjects: Vec<StreamSubjectReport>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// What the machine does without a runtime in between.
#[derive(Debug, Clone, Serialize)]
pub struct ReferenceReport {
    /// A byte through the pipes of a `cat` that this process has started, milliseconds.
    pub pipe_round_trip: Summary,
    /// A plain copy over one TCP connection on the loopback, bytes a second: the median of all.
    pub tcp_bytes_per_second: f64,
}

/// One endpoint over one transport.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSubjectReport {
    /// As the user named it.
    pub name: String,
    /// As the runtime names itself.
    pub runtime: String,
    /// `spdy` or `websocket`.
    pub transport: &'static str,
    /// A byte to `cat` and back, milliseconds.
    pub round_trip: Summary,
    /// Out of the container, bytes a second: the median of its turns, as the next three are.
    pub out_bytes_per_second: f64,
    /// Into the container, bytes a second.
    pub in_bytes_per_second: f64,
    /// Out of the container, as a share of the TCP copy of the same turn.
    pub out_share_of_tcp: f64,
    /// Into the container, as such a share.
    pub in_share_of_tcp: f64,
    /// How many `true`s were run at once.
    pub execs: usize,
    /// Until the last had told its status, milliseconds.
    pub execs_ms: f64,
    /// How many forwarded connections were open at once.
    pub connections: usize,
    /// Until each had carried a byte there and back, milliseconds; none where the endpoint forwards no ports over this transport.
    pub connections_ms: Option<f64>,
    /// What the daemon's private memory grew by for each idle command, which has three streams, bytes.
    pub bytes_per_idle_exec: u64,
    /// The same for each idle forwarded connection, which has two.
    pub bytes_per_idle_connection: Option<u64>,
}

/// What the container reads and writes at a time.
const BLOCK: u64 = 64 * 1024;

/// How long one stream may take before the run is given up.
const BOUND: Duration = Duration::from_secs(120);

/// Measures every subject in turn, over both transports, and removes what it made, also after a failure.
///
/// Cancellation: as [`run_pods`](super::run_pods).
pub async fn run_streams(
    subjects: &[Subject],
    settings: &StreamSettings,
    interrupt: impl Future<Output = ()>,
    mut progress: impl FnMut(&str),
) -> Result<StreamReport, BenchError> {
    progress("pipes without a runtime");
    let pipe_round_trip = reference::pipe_round_trip(settings.round_trips).await?;
    let scratch = pods_scratch(&settings.directory)?;
    let workload = Workload::new(&settings.image, &settings.cgroup_parent);
    let stop = Stop::default();
    let measured = begin(subjects, &settings.handler, &[], &stop, &mut progress).await?;
    let all = async {
        ensure_image(&measured, &settings.image, &mut progress).await?;
        let (mut reports, mut turns) = (Vec::new(), Vec::new());
        for subject in &measured {
            let pod = Pod::run(&subject.calls, &workload, scratch.path()).await?;
            for transport in [Transport::Spdy, Transport::WebSocket] {
                let name = &subject.calls.subject;
                progress(&format!("{name}: streams over {}", word(transport)));
                let streams = pod.measure(subject.daemon, settings, transport).await?;
                reports.push(streams.report(subject, settings, transport)?);
                turns.extend(streams.throughput);
            }
        }
        Ok((reports, turns))
    };
    let result = stop.bound(all, interrupt, None).await;
    let mut notes = Vec::new();
    remove_all(&measured, &workload, &mut notes).await;
    let (subjects, turns) = result?;
    let reference = ReferenceReport {
        pipe_round_trip: (pipe_round_trip.summary()).ok_or_else(|| missing("round trips"))?,
        tcp_bytes_per_second: median(&turns, |turn| turn.tcp),
    };
    Ok(StreamReport {
        machine: machine(),
        reference,
        subjects,
        notes,
    })
}

/// What one look at an endpoint over one transport has found.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) round_trip: Samples,
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) execs_ms: f64,
    /// None where the endpoint forwards no ports over the transport.
    pub(crate) connections_ms: Option<f64>,
    /// Of commands and of connections.
    pub(crate) bytes_per_idle: Option<(u64, Option<u64>)>,
}

impl Streams {
    fn report(
        &self,
        subject: &Measured,
        settings: &StreamSettings,
        transport: Transport,
    ) -> Result<StreamSubjectReport, BenchError> {
        let round_trip = self.round_trip.summary();
        let (bytes_per_idle_exec, bytes_per_idle_connection) =
            self.bytes_per_idle.unwrap_or_default();
        Ok(StreamSubjectReport {
            name: subject.calls.subject.clone(),
            runtime: subject.runtime(),
            transport: word(transport),
            round_trip: round_trip.ok_or_else(|| missing("round trips"))?,
            out_bytes_per_second: median(&self.throughput, |turn| turn.out),
            in_bytes_per_second: median(&self.throughput, |turn| turn.into),
            out_share_of_tcp: median(&self.throughput, Throughput::out_share),
            in_share_of_tcp: median(&self.throughput, Throughput::in_share),
            execs: settings.execs,
            execs_ms: self.execs_ms,
            connections: settings.connections,
            connections_ms: self.connections_ms,
            bytes_per_idle_exec,
            bytes_per_idle_connection,
        })
    }
}

/// A pod on the node's network, so that a server of this process can be forwarded to.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    calls: &'a Calls,
    pod: String,
    container: String,
}

impl<'a> Pod<'a> {
    pub(crate) async fn run(
        calls: &'a Calls,
        workload: &Workload,
        directory: &std::path::Path,
    ) -> Result<Self, BenchError> {
        let name = format!("stream-{}", calls.subject);
        let config = workload.pod(Network::Host, &name, directory);
        let container = workload.container(Network::Host, &name, directory);
        let pod = calls.run_pod(config.clone()).await?;
        let container = calls.create(&pod, container, config).await?;
        calls.start(&container).await?;
        Ok(Self {
            calls,
            pod,
            container,
        })
    }

    /// All once over one transport. The daemon's memory is looked at only where streams are to idle.
    pub(crate) async fn measure(
        &self,
        daemon: i32,
        settings: &StreamSettings,
        transport: Transport,
    ) -> Result<Streams, BenchError> {
        let options = Options {
            transport,
            ..Options::default()
        };
        let round_trip = self.round_trips(&options, settings.round_trips).await?;
        let mut throughput = Vec::new();
        for _ in 0..settings.turns {
            throughput.push(Throughput {
                tcp: reference::tcp_copy(settings.bytes).await?,
                out: self.out(&options, settings.bytes).await?,
                into: self.into(&options, settings.bytes).await?,
            });
        }
        let execs_ms = self.execs(&options, settings.execs).await?;
        let connections_ms = self.connections(&options, settings.connections).await?;
        let idle = Idle {
            count: settings.idle,
            settle: settings.settle,
            daemon,
        };
        let bytes_per_idle = match settings.idle {
            0 => None,
            _ => Some((
                self.idle_execs(&options, &idle).await?,
                self.idle_connections(&options, &idle).await?,
            )),
        };
        Ok(Streams {
            round_trip,
            throughput,
            execs_ms,
            connections_ms,
            bytes_per_idle,
        })
    }

    async fn exec(
        &self,
        options: &Options,
        command: &[&str],
        stdin: bool,
    ) -> Result<Session, BenchError> {
        let url = self.calls.exec_url(&self.container, command, stdin).await?;
        let wanted = Wanted {
            stdin,
            stdout: true,
            ..Wanted::default()
        };
        within("connect to the exec's URL", async {
            client::command(&url, options, wanted)
                .await
                .map_err(io::Error::other)
        })
        .await
    }

    async fn round_trips(&self, options: &Options, rounds: usize) -> Result<Samples, BenchError> {
        let mut session = self.exec(options, &["cat"], true).await?;
        let (Some(mut stdin), Some(mut stdout)) = (session.stdin.take(), session.stdout.take())
        else {
            return Err(missing("the streams of cat"));
        };
        let mut samples = Samples::default();
        within("send a byte through cat", async {
            for round in 0..=rounds {
                let begun = Instant::now();
                stdin.write_all(b"x").await?;
                stdin.flush().await?;
                stdout.read_exact(&mut [0]).await?;
                if round > 0 {
                    samples.keep(begun.elapsed());
                }
            }
            stdin.shutdown().await
        })
        .await?;
        Ok(samples)
    }

    async fn out(&self, options: &Options, bytes: u64) -> Result<f64, BenchError> {
        // Not head(1): busybox's moves bytes one by one.
        let bytes = bytes.next_multiple_of(BLOCK);
        let count = format!("count={}", bytes / BLOCK);
        let block = format!("bs={BLOCK}");
        let command = ["dd", "if=/dev/zero", &block, &count];
        let begun = Instant::now();
        let mut session = self.exec(options, &command, false).await?;
        let mut stdout = session
            .stdout
            .take()
            .ok_or_else(|| missing("bytes of dd"))?;
        let read = within("read what a container writes", drain(&mut stdout)).await?;
        let took = begun.elapsed();
        self.ended(&mut session).await?;
        match read == bytes {
            true => Ok(rate(bytes, took)),
            false => Err(failed(
                "read what a container writes",
                io::Error::other(format!("{read} of {bytes} bytes came")),
            )),
        }
    }

    async fn into(&self, options: &Options, bytes: u64) -> Result<f64, BenchError> {
        let bytes = bytes.next_multiple_of(BLOCK);
        let begun = Instant::now();
        // The status comes when the last byte has been read. By their count: containerd's WebSocket cannot carry the end of input. And in a shell, which
        // keeps the output open: when that is closed, as dd does, containerd ends the input.
        let count = bytes / BLOCK;
        let script = format!("dd of=/dev/null bs={BLOCK} count={count} iflag=fullblock; exit $?");
        let mut session = self.exec(options, &["sh", "-c", &script], true).await?;
        let mut stdin = session.stdin.take().ok_or_else(|| missing("stdin"))?;
        within("write into a container", pour(&mut stdin, bytes)).await?;
        self.ended(&mut session).await?;
        Ok(rate(bytes, begun.elapsed()))
    }

    async fn execs(&self, options: &Options, execs: usize) -> Result<f64, BenchError> {
        let begun = Instant::now();
        stream::iter(0..execs)
            .map(|_| async {
                let mut session = self.exec(options, &["true"], false).await?;
                self.ended(&mut session).await
            })
            .buffer_unordered(execs.max(1))
            .try_collect::<()>()
            .await?;
        Ok(milliseconds(begun.elapsed()))
    }

    async fn ended(&self, session: &mut Session) -> Result<(), BenchError> {
        let ending = within("wait for the exec's status", async {
            session.ending().await.map_err(io::Error::other)
        })
        .await?;
        match ending {
            streaming::Ending::Success => Ok(()),
            other => Err(failed(
                "run a command in a container",
                io::Error::other(format!("it ended with {other:?}")),
            )),
        }
    }

    /// Milliseconds until all had carried a byte both ways.
    async fn connections(
        &self,
        options: &Options,
        connections: usize,
    ) -> Result<Option<f64>, BenchError> {
        let echo = reference::Echo::serve().await?;
        let Some(forwarder) = self.forwarder(options, &echo).await? else {
            return Ok(None);
        };
        let begun = Instant::now();
        let open = open(&forwarder, &echo, connections).await?;
        let took = begun.elapsed();
        drop(open);
        Ok(Some(milliseconds(took)))
    }

    /// None where the endpoint does not know the protocol: over WebSocket containerd has none that current clients speak.
    async fn forwarder(
        &self,
        options: &Options,
        echo: &reference::Echo,
    ) -> Result<Option<Forwarder>, BenchError> {
        let url = self.calls.port_forward_url(&self.pod, echo.port).await?;
        within("connect to the port-forward's URL", async {
            match client::port_forward(&url, options).await {
                Ok(forwarder) => Ok(Some(forwarder)),
                Err(ClientError::Refused { status, .. })
                    if options.transport == Transport::WebSocket
                        && [400, 403].contains(&status.as_u16()) =>
                {
                    Ok(None)
                }
                Err(error) => Err(io::Error::other(error)),
            }
        })
        .await
    }

    /// Bytes of the daemon's for each command that has carried a byte both ways and idles.
    async fn idle_execs(&self, options: &Options, idle: &Idle) -> Result<u64, BenchError> {
        let before = idle.private().await?;
        let open: Vec<_> = stream::iter(0..idle.count)
            .map(|_| async {
                let mut session = self.exec(options, &["cat"], true).await?;
                let (Some(stdin), Some(stdout)) = (&mut session.stdin, &mut session.stdout) else {
                    return Err(missing("the streams of cat"));
                };
                within("send a byte through cat", async {
                    stdin.write_all(b"x").await?;
                    stdin.flush().await?;
                    stdout.read_exact(&mut [0]).await
                })
                .await?;
                Ok(session)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let grown = idle.private().await?.saturating_sub(before);
        let count = open.len().max(1) as u64;
        drop(open);
        Ok(grown / count)
    }

    /// Bytes of the daemon's for each connection that has carried a byte both ways and idles.
    async fn idle_connections(
        &self,
        options: &Options,
        idle: &Idle,
    ) -> Result<Option<u64>, BenchError> {
        let echo = reference::Echo::serve().await?;
        let Some(forwarder) = self.forwarder(options, &echo).await? else {
            return Ok(None);
        };
        let before = idle.private().await?;
        let open = open(&forwarder, &echo, idle.count).await?;
        let grown = idle.private().await?.saturating_sub(before);
        let count = open.len().max(1) as u64;
        drop(open);
        Ok(Some(grown / count))
    }
}

/// Idle commands that are begun at once.
const AT_ONCE: usize = 16;

/// How many streams idle, and whose memory they cost.
struct Idle {
    count: usize,
    settle: Duration,
    daemon: i32,
}

impl Idle {
    /// The daemon's private memory, once it has had its time.
    async fn private(&self) -> Result<u64, BenchError> {
        tokio::time::sleep(self.settle).await;
        private(self.daemon)
    }
}

/// Connections through the forwarder that have each carried a byte there and back.
async fn open(
    forwarder: &Forwarder,
    echo: &reference::Echo,
    count: usize,
) -> Result<Vec<Forwarded>, BenchError> {
    stream::iter(0..count)
        .map(|_| async {
            within("send a byte through a forwarded port", async {
                let mut forwarded = forwarder.connect(echo.port).map_err(io::Error::other)?;
                forwarded.stream.write_all(b"x").await?;
                forwarded.stream.flush().await?;
                forwarded.stream.read_exact(&mut [0]).await?;
                Ok(forwarded)
            })
            .await
        })
        .buffer_unordered(count.max(1))
        .try_collect()
        .await
}

fn private(daemon: i32) -> Result<u64, BenchError> {
    let Memory { private, .. } = Census::take(daemon)?.daemon;
    Ok(private)
}

pub(crate) fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Spdy => "spdy",
        Transport::WebSocket => "websocket",
    }
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64()
}

async fn within<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, BenchError> {
    match tokio::time::timeout(BOUND, work).await {
        Ok(result) => result.map_err(|source| failed(what, source)),
        Err(_) => Err(failed(
            what,
            io::Error::new(io::ErrorKind::TimedOut, format!("not over after {BOUND:?}")),
        )),
    }
}

fn missing(what: &str) -> BenchError {
    failed(
        "measure streams",
        io::Error::other(format!("there were no {what}")),
    )
}

fn failed(operation: &str, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}
