//! Which metrics there are: cAdvisor's names, as far as the kubelet gives them on.

use std::{collections::HashMap, sync::LazyLock};

use cri::v1::MetricDescriptor;
use cri::v1::MetricType::{self, Counter, Gauge};

/// Labels that every metric has: the cgroup, the container's id, its image's name, and whose it is in Kubernetes' words. A pod's own metrics
/// have an empty `name`, `image` and `container`.
pub(super) const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// A metric's name, what it says, its labels beside [`LABELS`], and whether it only grows.
pub(super) struct Description(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) &'static [&'static str],
    pub(super) MetricType,
);

pub(super) const DESCRIPTIONS: &[Description] = &[
    Description(
        "container_last_seen",
        "When these figures were read, seconds since the Unix epoch",
        &[],
        Gauge,
    ),
    Description(
        "container_start_time_seconds",
        "When the container was started, seconds since the Unix epoch",
        &[],
        Gauge,
    ),
    Description(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds",
        &["cpu"],
        Counter,
    ),
    Description(
        "container_cpu_user_seconds_total",
        "CPU time used by programs, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_cpu_system_seconds_total",
        "CPU time used by the kernel, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU quota that have passed",
        &[],
        Counter,
    ),
    Description(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota was used up",
        &[],
        Counter,
    ),
    Description(
        "container_cpu_cfs_throttled_seconds_total",
        "Time spent held back by the CPU quota, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_memory_usage_bytes",
        "Memory in use, file cache included",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_working_set_bytes",
        "Memory in use that cannot be dropped at once",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_rss",
        "Anonymous memory, in bytes",
        &[],
        Gauge,
    ),
    Description("container_memory_cache", "File cache, in bytes", &[], Gauge),
    Description(
        "container_memory_total_active_file_bytes",
        "File cache that was used of late, in bytes",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_total_inactive_file_bytes",
        "File cache that would be dropped first, in bytes",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_mapped_file",
        "Memory mapped files, in bytes",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_kernel_usage",
        "Memory of the kernel on its behalf, in bytes",
        &[],
        Gauge,
    ),
    Description("container_memory_swap", "Swap in use, in bytes", &[], Gauge),
    Description(
        "container_memory_max_usage_bytes",
        "The most memory that was in use",
        &[],
        Gauge,
    ),
    Description(
        "container_memory_failcnt",
        "How often the memory limit was hit",
        &[],
        Counter,
    ),
    Description(
        "container_memory_failures_total",
        "Page faults",
        &["failure_type", "scope"],
        Counter,
    ),
    Description(
        "container_oom_events_total",
        "Processes that the OOM killer has killed",
        &[],
        Counter,
    ),
    Description(
        "container_hugetlb_usage_bytes",
        "Huge pages in use, in bytes",
        &["pagesize"],
        Gauge,
    ),
    Description(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were in use, in bytes",
        &["pagesize"],
        Gauge,
    ),
    Description(
        "container_blkio_device_usage_total",
        "Bytes read from and written to a block device",
        &["device", "major", "minor", "operation"],
        Counter,
    ),
    Description(
        "container_fs_reads_bytes_total",
        "Bytes read from block devices",
        &["device"],
        Counter,
    ),
    Description(
        "container_fs_reads_total",
        "Reads from block devices",
        &["device"],
        Counter,
    ),
    Description(
        "container_fs_writes_bytes_total",
        "Bytes written to block devices",
        &["device"],
        Counter,
    ),
    Description(
        "container_fs_writes_total",
        "Writes to block devices",
        &["device"],
        Counter,
    ),
    Description(
        "container_fs_usage_bytes",
        "What the container has written to its own layer, in bytes",
        &["device"],
        Gauge,
    ),
    Description(
        "container_fs_limit_bytes",
        "Size of the file system of the container's own layer, in bytes",
        &["device"],
        Gauge,
    ),
    Description(
        "container_fs_inodes_total",
        "Inodes of the file system of the container's own layer",
        &["device"],
        Gauge,
    ),
    Description(
        "container_fs_inodes_free",
        "Free inodes of the file system of the container's own layer",
        &["device"],
        Gauge,
    ),
    Description(
        "container_network_receive_bytes_total",
        "Bytes received",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_receive_packets_total",
        "Packets received",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_receive_errors_total",
        "Errors while receiving",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_transmit_bytes_total",
        "Bytes sent",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_transmit_packets_total",
        "Packets sent",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_transmit_errors_total",
        "Errors while sending",
        &["interface"],
        Counter,
    ),
    Description(
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while sending",
        &["interface"],
        Counter,
    ),
    Description(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some process waited for a CPU, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which every process waited for a CPU, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some process waited for memory, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which every process waited for memory, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some process waited for input or output, in seconds",
        &[],
        Counter,
    ),
    Description(
        "container_pressure_io_stalled_seconds_total",
        "Time in which every process waited for input or output, in seconds",
        &[],
        Counter,
    ),
    Description("container_processes", "Processes", &[], Gauge),
    Description("container_threads", "Threads of all processes", &[], Gauge),
    Description(
        "container_threads_max",
        "The most threads that there may be; 0 without a limit",
        &[],
        Gauge,
    ),
    Description(
        "container_file_descriptors",
        "Open file descriptors",
        &[],
        Gauge,
    ),
    Description("container_sockets", "Open sockets", &[], Gauge),
    Description(
        "container_ulimits_soft",
        "Soft limits of the container's first process",
        &["ulimit"],
        Gauge,
    ),
    Description(
        "container_spec_cpu_period",
        "Period of the CPU quota, in microseconds",
        &[],
        Gauge,
    ),
    Description(
        "container_spec_cpu_quota",
        "CPU time that may be used in a period, in microseconds",
        &[],
        Gauge,
    ),
    Description(
        "container_spec_cpu_shares",
        "Share of CPUs when there are not enough",
        &[],
        Gauge,
    ),
    Description(
        "container_spec_memory_limit_bytes",
        "Memory limit; 0 without one",
        &[],
        Gauge,
    ),
    Description(
        "container_spec_memory_swap_limit_bytes",
        "Swap limit; 0 without one",
        &[],
        Gauge,
    ),
    Description(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left alone longest; 0 without a reservation",
        &[],
        Gauge,
    ),
];

/// Every metric that there may be.
pub(super) fn descriptors() -> Vec<MetricDescriptor> {
    DESCRIPTIONS
        .iter()
        .map(|Description(name, help, labels, _)| MetricDescriptor {
            name: (*name).to_owned(),
            help: (*help).to_owned(),
            label_keys: LABELS
                .iter()
                .chain(*labels)
                .map(|l| (*l).to_owned())
                .collect(),
        })
        .collect()
}

/// By its name.
pub(super) fn described(name: &str) -> Option<&'static Description> {
    static BY_NAME: LazyLock<HashMap<&str, &Description>> =
        LazyLock::new(|| DESCRIPTIONS.iter().map(|one| (one.0, one)).collect());
    BY_NAME.get(name).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_described_once_and_says_something() {
        let mut names = BTreeSet::new();
        for descriptor in descriptors() {
            assert!(names.insert(descriptor.name.clone()), "{}", descriptor.name);
            assert!(!descriptor.help.is_empty());
            assert!(
                descriptor
                    .label_keys
                    .starts_with(&LABELS.map(str::to_owned))
            );
        }
        assert!(names.contains("container_threads"));
    }
}
