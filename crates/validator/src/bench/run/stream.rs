//! Exec and port-forward over both transports, beside what pipes and TCP do without a runtime.

use streaming::client::Transport;

use super::{Kind, Run};
use crate::bench::{
    BenchError, StreamSettings,
    pods::Measured,
    record::{Suite, Unit},
    reference,
    stream::{Pod, Streams, word},
    throughput::Throughput,
};

/// Looks at each endpoint over each transport, the endpoints in turn.
const ROUNDS: usize = 3;

/// Of a look.
const ROUND_TRIPS: usize = 200;
const EXECS: usize = 50;
const CONNECTIONS: usize = 100;

/// Streams that idle while memory is looked at, in the first look alone: the daemon must be left in peace before, so much longer than elsewhere.
const IDLE: usize = 50;
const IDLE_SETTLES: u32 = 3;

/// Experiment, operation and unit of what a look shows, the first three also without a runtime.
const MEASURES: [(&str, &str, Unit); 7] = [
    ("Exec", "a byte there and back", Unit::Ms),
    ("Exec", "out of the container", Unit::BytesPerSecond),
    ("Exec", "into the container", Unit::BytesPerSecond),
    ("Exec", "50 commands at once", Unit::Ms),
    ("PortForward", "100 connections at once", Unit::Ms),
    ("Exec", "memory of an idle command", Unit::Bytes),
    ("PortForward", "memory of an idle connection", Unit::Bytes),
];

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn streams(&mut self) -> Result<(), BenchError> {
        let (workload, directory, measured) = (self.workload, self.directory, self.measured);
        let mut pods: Vec<Option<Pod<'_>>> = measured.iter().map(|_| None).collect();
        let mut pipes = Vec::new();
        let mut copies = Vec::new();
        for transport in [Transport::Spdy, Transport::WebSocket] {
            let mut inside = self.everybody();
            let mut all: Vec<Vec<Streams>> = measured.iter().map(|_| Vec::new()).collect();
            for round in 1..=ROUNDS {
                let settings = self.stream_settings(round);
                (self.progress)("pipes without a runtime");
                let pipe = reference::pipe_round_trip(settings.round_trips).await?;
                pipes.extend(pipe.milliseconds());
                let what = format!("streams over {}, {round} of {ROUNDS}", word(transport));
                let work = async |index: usize, _: &Measured| {
                    let subject = &measured[index];
                    let pod = match pods[index].take() {
                        Some(pod) => pod,
                        None => Pod::run(&subject.calls, workload, directory).await?,
                    };
                    // After a failure there is no pod any more.
                    let streams = pod.measure(subject.daemon, &settings, transport).await?;
                    all[index].push(streams);
                    pods[index] = Some(pod);
                    Ok(())
                };
                self.turn(&mut inside, &what, work).await?;
            }
            for turn in all.iter().flatten().flat_map(|look| &look.throughput) {
                copies.push(turn.tcp);
            }
            for (index, looks) in all.iter().enumerate() {
                self.keep_looks(index, word(transport), looks);
            }
        }
        for transport in [Transport::Spdy, Transport::WebSocket] {
            let samples = [&pipes, &copies, &copies];
            for (measure, samples) in MEASURES.into_iter().zip(samples) {
                let kind = kind(measure, word(transport));
                self.keep(None, kind, None, samples.clone());
            }
        }
        Ok(())
    }

    fn stream_settings(&self, round: usize) -> StreamSettings {
        StreamSettings {
            image: self.settings.image.clone(),
            round_trips: ROUND_TRIPS,
            bytes: self.settings.stream_bytes,
            turns: 1,
            execs: EXECS,
            connections: CONNECTIONS,
            idle: if round == 1 { IDLE } else { 0 },
            settle: self.settings.settle * IDLE_SETTLES,
            handler: self.settings.handler.clone(),
            cgroup_parent: self.settings.cgroup_parent.clone(),
            directory: self.settings.directory.clone(),
        }
    }

    fn keep_looks(&mut self, of: usize, transport: &'static str, looks: &[Streams]) {
        let each = |figure: fn(&Streams) -> f64| looks.iter().map(figure).collect();
        let turns = |figure: fn(&Throughput) -> f64| {
            let all = looks.iter().flat_map(|look| &look.throughput);
            all.map(figure).collect()
        };
        let idle = |figure: fn((u64, Option<u64>)) -> Option<u64>| {
            let all = looks.iter().filter_map(|look| look.bytes_per_idle);
            all.filter_map(figure).map(|bytes| bytes as f64).collect()
        };
        let trips = looks.iter().flat_map(|look| look.round_trip.milliseconds());
        let samples: [Vec<f64>; 7] = [
            trips.collect(),
            turns(|turn| turn.out),
            turns(|turn| turn.into),
            each(|look| look.execs_ms),
            (looks.iter().filter_map(|look| look.connections_ms)).collect(),
            idle(|(exec, _)| Some(exec)),
            idle(|(_, connection)| connection),
        ];
        for (measure, samples) in MEASURES.into_iter().zip(samples) {
            self.keep(Some(of), kind(measure, transport), None, samples);
        }
    }
}

fn kind(
    (experiment, operation, unit): (&'static str, &'static str, Unit),
    transport: &'static str,
) -> Kind<'static> {
    Kind {
        suite: Suite::Stream,
        experiment,
        operation,
        variant: transport,
        unit,
    }
}
