//! The metrics of containers and pods under cAdvisor's names, which dashboards and alerts know: the kubelet gives them on as they are.
//!
//! Each metric is described once, in [`metric_table`]; its value has that metric's labels in that order. CRI's values are whole numbers, so
//! seconds are whole seconds. A figure that the machine does not count is left out, and so is a limit that is not set, but for those where 0
//! stands for none.

use cgroup::{CpuDetail, Detail, MemoryDetail, Pressure};
use cri::v1::{Metric, UInt64Value};

use super::metric_table::{self, DESCRIPTIONS, Description, LABELS};
use crate::{
    container::Phase,
    pod::Pod,
    runtime::now_ns,
    stats::{ContainerSample, Disk, Figures, Network, PodSample, Processes, Sample, Traffic},
};

const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

/// A pod's own: its network, and its cgroup where it has one to itself.
pub(super) fn of_pod(sample: &PodSample, figures: Option<&Figures>) -> Vec<Metric> {
    let pod = &sample.pod;
    let mut sheet = Sheet::new(slashed(&pod.cgroup_parent), "", "", "", pod);
    sheet.at_ns = sample
        .network
        .as_ref()
        .map_or_else(now_ns, |n| n.taken_at_ns);
    sheet.put("container_last_seen", seconds(sheet.at_ns), &[]);
    if let Some(network) = &sample.network {
        sheet.network(network);
    }
    // A sum of containers would be counted twice by whoever adds up.
    if let (Some(figures), Some(cgroup)) = (figures, &sample.cgroup) {
        sheet.at_ns = cgroup.taken_at_ns;
        sheet.sample(cgroup);
        sheet.detail(&figures.detail);
    }
    sheet.metrics
}

/// A container's.
pub(super) fn of_container(
    sample: &ContainerSample,
    figures: Option<&Figures>,
    disk: &Disk,
) -> Vec<Metric> {
    let container = &sample.container;
    let config = &container.config;
    let image = match config.image.user_specified_image.as_str() {
        "" => &config.image.image,
        specified => specified,
    };
    let mut sheet = Sheet::new(
        slashed(container.cgroup()),
        container.id.as_str(),
        image,
        &config.metadata.name,
        &container.pod,
    );
    sheet.at_ns = sample.cgroup.taken_at_ns;
    sheet.put("container_last_seen", seconds(sheet.at_ns), &[]);
    if let Phase::Running { started_at_ns, .. } = container.phase() {
        sheet.put("container_start_time_seconds", seconds(started_at_ns), &[]);
    }
    sheet.sample(&sample.cgroup);
    if let Some(figures) = figures {
        sheet.detail(&figures.detail);
        if let Some(processes) = &figures.processes {
            sheet.processes(processes);
        }
    }
    let device = [disk.device.as_str()];
    sheet.put("container_fs_limit_bytes", disk.bytes, &device);
    sheet.put("container_fs_inodes_total", disk.inodes, &device);
    sheet.put("container_fs_inodes_free", disk.free_inodes, &device);
    if let Some(layer) = sample.writable_layer {
        sheet.at_ns = layer.measured_at_ns;
        sheet.put("container_fs_usage_bytes", layer.bytes, &device);
    }
    sheet.metrics
}

/// The metrics of one container, or pod, as they are written down.
struct Sheet {
    labels: [String; LABELS.len()],
    /// When the figures were read.
    at_ns: i64,
    metrics: Vec<Metric>,
}

impl Sheet {
    fn new(id: String, name: &str, image: &str, container: &str, pod: &Pod) -> Self {
        let metadata = &pod.config.metadata;
        Self {
            labels: [
                id,
                name.to_owned(),
                image.to_owned(),
                container.to_owned(),
                metadata.name.clone(),
                metadata.namespace.clone(),
            ],
            at_ns: 0,
            metrics: Vec::with_capacity(DESCRIPTIONS.len()),
        }
    }

    /// `labels`: the values of those that this metric has beside the common ones.
    fn put(&mut self, name: &'static str, value: u64, labels: &[&str]) {
        // Scenarios hold that there is one.
        let Some(Description(_, _, keys, kind)) = metric_table::described(name) else {
            return;
        };
        debug_assert_eq!(keys.len(), labels.len(), "{name}");
        let own = labels.iter().map(|label| (*label).to_owned());
        self.metrics.push(Metric {
            name: name.to_owned(),
            timestamp: self.at_ns,
            metric_type: (*kind).into(),
            label_values: self.labels.iter().cloned().chain(own).collect(),
            value: Some(UInt64Value { value }),
        });
    }

    fn put_known(&mut self, name: &'static str, value: Option<u64>, labels: &[&str]) {
        if let Some(value) = value {
            self.put(name, value, labels);
        }
    }

    fn sample(&mut self, sample: &Sample) {
        let cpu = sample.cpu_ns.map(|ns| ns / NANOSECONDS);
        self.put_known("container_cpu_usage_seconds_total", cpu, &["total"]);
        self.put_known("container_memory_usage_bytes", sample.memory_bytes, &[]);
        self.put_known(
            "container_memory_working_set_bytes",
            sample.working_set_bytes,
            &[],
        );
        self.put_known("container_memory_rss", sample.rss_bytes, &[]);
        self.put_known("container_memory_swap", sample.swap_bytes, &[]);
        let faults = "container_memory_failures_total";
        self.put_known(faults, sample.page_faults, &["pgfault", "hierarchy"]);
        self.put_known(
            faults,
            sample.major_page_faults,
            &["pgmajfault", "hierarchy"],
        );
        self.pressure(
            sample.cpu_pressure.as_ref(),
            "container_pressure_cpu_waiting_seconds_total",
            "container_pressure_cpu_stalled_seconds_total",
        );
        self.pressure(
            sample.memory_pressure.as_ref(),
            "container_pressure_memory_waiting_seconds_total",
            "container_pressure_memory_stalled_seconds_total",
        );
        self.pressure(
            sample.io_pressure.as_ref(),
            "container_pressure_io_waiting_seconds_total",
            "container_pressure_io_stalled_seconds_total",
        );
    }

    fn pressure(&mut self, pressure: Option<&Pressure>, some: &'static str, full: &'static str) {
        if let Some(pressure) = pressure {
            self.put(some, pressure.some.total_us / MICROSECONDS, &[]);
            self.put(full, pressure.full.total_us / MICROSECONDS, &[]);
        }
    }

    fn detail(&mut self, detail: &Detail) {
        if let Some(cpu) = &detail.cpu {
            self.cpu(cpu);
        }
        if let Some(memory) = &detail.memory {
            self.memory(memory);
        }
        for pages in &detail.huge_pages {
            let size = [pages.size.as_str()];
            self.put("container_hugetlb_usage_bytes", pages.usage_bytes, &size);
            self.put_known(
                "container_hugetlb_max_usage_bytes",
                pages.max_usage_bytes,
                &size,
            );
        }
        for io in &detail.io {
            let (major, minor) = (io.major.to_string(), io.minor.to_string());
            let number = format!("{major}:{minor}");
            let device = [number.as_str()];
            self.put("container_fs_reads_bytes_total", io.read_bytes, &device);
            self.put("container_fs_reads_total", io.reads, &device);
            self.put("container_fs_writes_bytes_total", io.written_bytes, &device);
            self.put("container_fs_writes_total", io.writes, &device);
            for (operation, bytes) in [("read", io.read_bytes), ("write", io.written_bytes)] {
                let labels = [number.as_str(), &major, &minor, operation];
                self.put("container_blkio_device_usage_total", bytes, &labels);
            }
        }
        self.put("container_threads_max", detail.pids_limit.unwrap_or(0), &[]);
    }

    fn cpu(&mut self, cpu: &CpuDetail) {
        self.put(
            "container_cpu_user_seconds_total",
            cpu.user_ns / NANOSECONDS,
            &[],
        );
        self.put(
            "container_cpu_system_seconds_total",
            cpu.system_ns / NANOSECONDS,
            &[],
        );
        self.put("container_cpu_cfs_periods_total", cpu.periods, &[]);
        self.put(
            "container_cpu_cfs_throttled_periods_total",
            cpu.throttled_periods,
            &[],
        );
        let throttled = cpu.throttled_ns / NANOSECONDS;
        self.put("container_cpu_cfs_throttled_seconds_total", throttled, &[]);
        self.put("container_spec_cpu_period", cpu.period_us, &[]);
        self.put_known("container_spec_cpu_quota", cpu.quota_us, &[]);
        self.put("container_spec_cpu_shares", cpu.shares, &[]);
    }

    fn memory(&mut self, memory: &MemoryDetail) {
        self.put("container_memory_cache", memory.cache_bytes, &[]);
        self.put(
            "container_memory_total_active_file_bytes",
            memory.active_file_bytes,
            &[],
        );
        self.put(
            "container_memory_total_inactive_file_bytes",
            memory.inactive_file_bytes,
            &[],
        );
        self.put(
            "container_memory_mapped_file",
            memory.mapped_file_bytes,
            &[],
        );
        self.put("container_memory_kernel_usage", memory.kernel_bytes, &[]);
        self.put(
            "container_memory_max_usage_bytes",
            memory.max_usage_bytes,
            &[],
        );
        self.put("container_memory_failcnt", memory.limit_hits, &[]);
        self.put("container_oom_events_total", memory.oom_kills, &[]);
        let faults = "container_memory_failures_total";
        self.put(faults, memory.own_page_faults, &["pgfault", "container"]);
        self.put(
            faults,
            memory.own_major_page_faults,
            &["pgmajfault", "container"],
        );
        let none = |limit: Option<u64>| limit.unwrap_or(0);
        self.put(
            "container_spec_memory_limit_bytes",
            none(memory.limit_bytes),
            &[],
        );
        self.put(
            "container_spec_memory_swap_limit_bytes",
            none(memory.swap_limit_bytes),
            &[],
        );
        let reservation = none(memory.reservation_bytes);
        self.put(
            "container_spec_memory_reservation_limit_bytes",
            reservation,
            &[],
        );
    }

    fn processes(&mut self, processes: &Processes) {
        self.put("container_processes", processes.count, &[]);
        self.put("container_threads", processes.threads, &[]);
        self.put("container_file_descriptors", processes.descriptors, &[]);
        self.put("container_sockets", processes.sockets, &[]);
        let limit = processes.open_files_limit;
        self.put_known("container_ulimits_soft", limit, &["max_open_files"]);
    }

    /// Loopback is left out, as cAdvisor does: what goes through it goes nowhere.
    fn network(&mut self, network: &Network) {
        for interface in network.interfaces.iter().filter(|one| !one.is_loopback()) {
            let name = [interface.name.as_str()];
            let Traffic {
                bytes,
                packets,
                errors,
                dropped,
            } = interface.received;
            self.put("container_network_receive_bytes_total", bytes, &name);
            self.put("container_network_receive_packets_total", packets, &name);
            self.put("container_network_receive_errors_total", errors, &name);
            self.put(
                "container_network_receive_packets_dropped_total",
                dropped,
                &name,
            );
            let Traffic {
                bytes,
                packets,
                errors,
                dropped,
            } = interface.sent;
            self.put("container_network_transmit_bytes_total", bytes, &name);
            self.put("container_network_transmit_packets_total", packets, &name);
            self.put("container_network_transmit_errors_total", errors, &name);
            self.put(
                "container_network_transmit_packets_dropped_total",
                dropped,
                &name,
            );
        }
    }
}

fn slashed(cgroup: &str) -> String {
    format!("/{}", cgroup.trim_matches('/'))
}

fn seconds(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or(0) / NANOSECONDS
}
