use std::fmt;

/// Something about the node that an operator should know. The text of [`fmt::Display`] is a sentence for Status.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Another program's nf_tables chain at the forward hook drops by default. Accepting a packet in our own chain does not override
    /// that: every chain at the hook must let it pass.
    ForwardDropped {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        table: String,
        chain: String,
    },
    /// A kernel setting was changed for pods to work.
    SysctlChanged {
        name: String,
        from: String,
        to: String,
    },
    /// The kernel has no IPv6; pods get IPv4 addresses only.
    Ipv6Unavailable,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::ForwardDropped {
                family,
                table,
                chain,
            } => write!(
                f,
                "chain {chain} of nf_tables table {family} {table} drops forwarded packets by default, and no other table can \
                 override that: pods reach other networks only where its rules accept their traffic"
            ),
            Condition::SysctlChanged { name, from, to } => {
                write!(f, "{name} was {from} and was set to {to} for pods")
            }
            Condition::Ipv6Unavailable => {
                f.write_str("the kernel has no IPv6: pods get IPv4 addresses only")
            }
        }
    }
}
