//! How fast a runtime is, and what it costs.
//!
//! Figures mean something only beside others of the same sitting: several endpoints are measured in turn, round by round, and the [`floor`]
//! says what the kernel alone takes for a container on this machine. [`run_suites`] puts the single benchmarks together, keeps every sample in a
//! [`record`], and [`page`] shows several of those side by side.

mod calls;
mod census;
mod commands;
mod comparison;
mod crowd;
pub mod floor;
mod handlers;
mod images;
mod lists;
mod pods;
pub mod record;
mod reference;
mod report;
mod run;
mod samples;
mod sequence;
mod statistics;
mod stop;
mod stream;
mod throughput;
mod workload;

pub use census::{Memory, ProcessClass};
pub use commands::{CommandLine, CommandReport, CommandsReport};
pub use comparison::{Comparison, page, table};
pub use crowd::CrowdReport;
pub use floor::FloorReport;
pub use handlers::{HandlerReport, HandlersReport, HandlersSettings, run_handlers};
pub use images::{
    ImageReport, ImagesReport, ImagesSettings, ImagesSubjectReport, LimitReport, RecipeReport,
    StageReport, run_images,
};
pub use lists::ListsReport;
pub(crate) use pods::machine;
pub use pods::{PodsSettings, Subject, run_pods};
pub use report::{Machine, PodsReport, SubjectReport};
pub use run::{RunSettings, run_suites};
pub use samples::Summary;
pub use sequence::{CallReport, NetworkReport};
pub use stream::{ReferenceReport, StreamReport, StreamSettings, StreamSubjectReport, run_streams};
pub use workload::Network;

use std::time::Duration;

use cri::client::ConnectError;

/// Why a benchmark ended early. What it had made has been removed as far as the runtime let it.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The endpoint is not there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The runtime refused, failed, or took longer than a minute.
    #[error("{subject}: {operation}: {:?}: {}", .status.code(), .status.message())]
    Rpc {
        /// The endpoint's name.
        subject: String,
        /// What was asked.
        operation: String,
        /// The runtime's answer.
        status: Box<tonic::Status>,
    },
    /// The user did not want the rest.
    #[error("interrupted")]
    Interrupted,
    /// It took longer than the user was willing to wait.
    #[error("not over after {limit:?}")]
    TimeLimit {
        /// How long that is.
        limit: Duration,
    },
    /// Something of this side.
    #[error("{operation}")]
    Io {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
