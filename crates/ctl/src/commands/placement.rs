use clap::Args;

/// What the pods of `bench` and `check` run under.
#[derive(Debug, Args)]
pub(crate) struct Placement {
    /// RuntimeClass handler of the pods [default: the runtime's]
    #[arg(
        long,
        short,
        value_name = "HANDLER",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) runtime: String,
    #[command(flatten)]
    pub(crate) cgroup: CgroupParent,
}

/// Where the pods' cgroups are.
#[derive(Debug, Args)]
pub(crate) struct CgroupParent {
    /// Cgroup parent of the pods, as the runtime's cgroup driver writes it [default: the runtime's]
    #[arg(
        long,
        value_name = "CGROUP",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cgroup_parent: String,
}
