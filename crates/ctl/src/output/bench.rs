//! The benchmark's report for people: one table a question, the endpoints side by side.

use std::io::{self, Write};

use validator::bench::{
    CrowdReport, FloorReport, HandlersReport, ImagesReport, ListsReport, Memory, Network,
    PodsReport, StreamReport, SubjectReport, Summary,
};

/// Widths of the row's name and of each figure.
const NAME: usize = 34;
const FIGURE: usize = 9;

pub(crate) fn write_pods(out: &mut impl Write, report: &PodsReport) -> io::Result<()> {
    let machine = &report.machine;
    writeln!(
        out,
        "Linux {}, {} processors, cgroups {}",
        machine.kernel, machine.processors, machine.cgroups
    )?;
    for subject in &report.subjects {
        writeln!(out, "{}: {}", subject.name, subject.runtime)?;
    }
    if let Some(floor) = &report.floor {
        write_floor(out, floor)?;
    }
    write_networks(out, report)?;
    for subject in &report.subjects {
        if let Some(crowd) = &subject.crowd {
            write_crowd(out, &subject.name, crowd)?;
        }
        if let Some(lists) = &subject.lists {
            write_lists(out, &subject.name, lists)?;
        }
    }
    for note in &report.notes {
        writeln!(out, "\nnote: {note}")?;
    }
    Ok(())
}

pub(crate) fn write_streams(out: &mut impl Write, report: &StreamReport) -> io::Result<()> {
    let machine = &report.machine;
    writeln!(
        out,
        "Linux {}, {} processors",
        machine.kernel, machine.processors
    )?;
    header(out, "a byte there and back, ms")?;
    row(
        out,
        "pipes of a cat, no runtime",
        &report.reference.pipe_round_trip,
    )?;
    for subject in &report.subjects {
        let name = format!("{}, {}", subject.name, subject.transport);
        row(out, &name, &subject.round_trip)?;
    }
    let tcp = report.reference.tcp_bytes_per_second;
    writeln!(
        out,
        "\n  {:<NAME$}{:>9.0} MB/s",
        "one TCP connection, no runtime",
        tcp / 1e6
    )?;
    for subject in &report.subjects {
        let name = format!("{}, {}", subject.name, subject.transport);
        for (way, rate, share) in [
            (
                "out",
                subject.out_bytes_per_second,
                subject.out_share_of_tcp,
            ),
            ("in", subject.in_bytes_per_second, subject.in_share_of_tcp),
        ] {
            writeln!(
                out,
                "  {:<NAME$}{:>9.0} MB/s, {:.0} % of it",
                format!("{name}, {way}"),
                rate / 1e6,
                100.0 * share
            )?;
        }
    }
    writeln!(out)?;
    for subject in &report.subjects {
        writeln!(
            out,
            "  {}, {}: {} execs at once {:.0} ms; of the daemon's memory {:.1} KiB for each idle exec",
            subject.name,
            subject.transport,
            subject.execs,
            subject.execs_ms,
            subject.bytes_per_idle_exec as f64 / 1024.0,
        )?;
        match subject.connections_ms {
            Some(milliseconds) => writeln!(
                out,
                "  {}, {}: {} forwarded connections {milliseconds:.0} ms; of the daemon's memory {:.1} KiB for each idle one",
                subject.name,
                subject.transport,
                subject.connections,
                subject.bytes_per_idle_connection.unwrap_or_default() as f64 / 1024.0
            )?,
            None => writeln!(
                out,
                "  {}, {}: no ports are forwarded over it",
                subject.name, subject.transport
            )?,
        }
    }
    for note in &report.notes {
        writeln!(out, "\nnote: {note}")?;
    }
    Ok(())
}

pub(crate) fn write_images(out: &mut impl Write, report: &ImagesReport) -> io::Result<()> {
    let machine = &report.machine;
    writeln!(
        out,
        "Linux {}, {} processors",
        machine.kernel, machine.processors
    )?;
    for subject in &report.subjects {
        writeln!(out, "{}: {}", subject.name, subject.runtime)?;
    }
    for (index, image) in report.images.iter().enumerate() {
        let limit = &image.limit;
        header(out, &format!("{}: {}, ms", image.name, image.what))?;
        let runs = report.subjects.iter();
        let runs: Vec<_> = runs
            .filter_map(|subject| Some((&*subject.name, subject.images.get(index)?)))
            .collect();
        for (name, run) in &runs {
            row(out, &format!("pull, {name}"), &run.cold)?;
            row(out, &format!("pull of what is there, {name}"), &run.warm)?;
            row(out, &format!("RemoveImage, {name}"), &run.remove)?;
        }
        for (name, run) in &runs {
            writeln!(
                out,
                "  {name}: {:.0} % of the limit; {:.2} s of user and {:.2} s of system time; {:.1} MB over idle",
                100.0 * run.share_of_limit,
                run.user_seconds,
                run.system_seconds,
                run.peak_over_idle_bytes as f64 / 1e6
            )?;
        }
        writeln!(
            out,
            "  the limit: {:.0} ms for {:.0} MB, {:.0} MB unpacked (fetch {:.0} ms, hash and inflate {:.0} ms, untar {:.0} ms)",
            limit.limit_ms,
            image.compressed_bytes as f64 / 1e6,
            image.unpacked_bytes as f64 / 1e6,
            limit.fetch.wall_ms,
            limit.hash_and_inflate.wall_ms,
            limit.untar.wall_ms
        )?;
    }
    Ok(())
}

pub(crate) fn write_handlers(out: &mut impl Write, report: &HandlersReport) -> io::Result<()> {
    let machine = &report.machine;
    let network = match report.network {
        Network::Host => "host",
        Network::Pod => "pod",
    };
    writeln!(
        out,
        "Linux {}, {} processors, cgroups {}\n{}, {network} network",
        machine.kernel, machine.processors, machine.cgroups, report.runtime
    )?;
    let calls = report.handlers.first().map(|first| first.calls.len());
    header(out, "one pod at a time, ms")?;
    for call in 0..calls.unwrap_or_default() {
        for handler in &report.handlers {
            if let Some(call) = handler.calls.get(call) {
                row(out, &of(call.name, &handler.name), &call.summary)?;
            }
        }
    }
    for handler in &report.handlers {
        writeln!(
            out,
            "\n{}: {:.1} ms of processor time for a pod's life; one pod adds",
            handler.name, handler.cpu_ms
        )?;
        memory_header(out)?;
        for class in &handler.added {
            memory(out, &class.name, class.count, class.memory)?;
        }
    }
    for compared in &report.commands {
        let title = format!("run of true, {} mounts more, ms", compared.mounts);
        header(out, &title)?;
        for command in &compared.commands {
            row(out, &command.name, &command.run)?;
        }
        for command in &compared.commands {
            writeln!(
                out,
                "  {}: {:.2} ms of processor time a run",
                command.name, command.cpu_ms
            )?;
        }
    }
    for note in &report.notes {
        writeln!(out, "\nnote: {note}")?;
    }
    Ok(())
}

fn write_floor(out: &mut impl Write, floor: &FloorReport) -> io::Result<()> {
    header(out, "the kernel's floor, ms")?;
    row(out, "namespaces, cgroups, mounts, exec", &floor.container)?;
    row(out, "fork, exec and wait alone", &floor.spawn)
}

/// Every call of every network, one endpoint's row below the other's.
fn write_networks(out: &mut impl Write, report: &PodsReport) -> io::Result<()> {
    let Some(first) = report.subjects.first() else {
        return Ok(());
    };
    for (index, network) in first.networks.iter().enumerate() {
        let name = match network.network {
            Network::Host => "host network",
            Network::Pod => "pod network",
        };
        header(out, &format!("{name}, one pod at a time, ms"))?;
        for (call, ours) in network.calls.iter().enumerate() {
            for subject in &report.subjects {
                let theirs = subject.networks.get(index);
                let Some(theirs) = theirs.and_then(|network| network.calls.get(call)) else {
                    continue;
                };
                row(out, &labelled(report, subject, ours.name), &theirs.summary)?;
            }
        }
    }
    Ok(())
}

/// The endpoint is named where there are several.
fn labelled(report: &PodsReport, subject: &SubjectReport, call: &str) -> String {
    if report.subjects.len() == 1 {
        return call.to_owned();
    }
    of(call, &subject.name)
}

/// The sum's name is long, and means what it says when short too.
fn of(call: &str, name: &str) -> String {
    let call = call.replace("CreateContainer + StartContainer", "Create + Start");
    format!("{call}, {name}")
}

fn write_crowd(out: &mut impl Write, name: &str, crowd: &CrowdReport) -> io::Result<()> {
    writeln!(
        out,
        "\n{name}: {} pods, {} at a time: ready after {:.0} ms, gone after {:.0} ms, {:.2} s of processor time",
        crowd.pods, crowd.concurrency, crowd.ready_ms, crowd.gone_ms, crowd.cpu_seconds
    )?;
    memory_header(out)?;
    memory(out, "daemon, idle", 1, crowd.daemon_idle)?;
    memory(out, "daemon, with the pods", 1, crowd.daemon_loaded)?;
    for class in &crowd.added {
        memory(out, &class.name, class.count, class.memory)?;
    }
    Ok(())
}

fn write_lists(out: &mut impl Write, name: &str, lists: &ListsReport) -> io::Result<()> {
    header(out, &format!("{name}, {} containers, ms", lists.containers))?;
    row(out, "ListContainers", &lists.list_containers)?;
    row(out, "ListContainerStats", &lists.list_container_stats)
}

fn header(out: &mut impl Write, title: &str) -> io::Result<()> {
    write!(out, "\n  {title:<NAME$}")?;
    for column in ["min", "p50", "p90", "p99", "max", "count"] {
        write!(out, "{column:>FIGURE$}")?;
    }
    writeln!(out)
}

fn row(out: &mut impl Write, name: &str, summary: &Summary) -> io::Result<()> {
    write!(out, "  {name:<NAME$}")?;
    for figure in [
        summary.min,
        summary.p50,
        summary.p90,
        summary.p99,
        summary.max,
    ] {
        write!(out, "{figure:>FIGURE$.2}")?;
    }
    writeln!(out, "{:>FIGURE$}", summary.count)
}

fn memory_header(out: &mut impl Write) -> io::Result<()> {
    let [count, rss, pss, private] = ["count", "rss", "pss", "private"];
    writeln!(
        out,
        "  {:<NAME$}{count:>10}{rss:>10}{pss:>10}{private:>10}",
        "memory, MB"
    )
}

fn memory(out: &mut impl Write, name: &str, count: usize, memory: Memory) -> io::Result<()> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    writeln!(
        out,
        "  {name:<NAME$}{count:>10}{:>10.2}{:>10.2}{:>10.2}",
        megabytes(memory.resident),
        megabytes(memory.proportional),
        megabytes(memory.private)
    )
}
