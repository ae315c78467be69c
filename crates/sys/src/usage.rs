use std::time::Duration;

/// `getrusage(2)` of the children that this process has waited for, with what theirs have used: user and system time together.
pub fn children_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one `struct rusage` to the space for one.
    let _cannot_fail = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    // SAFETY: written by the kernel, and zeros, which it was before, are a valid one.
    let usage = unsafe { usage.assume_init() };
    let time = |of: libc::timeval| {
        let seconds = Duration::from_secs(of.tv_sec.unsigned_abs());
        seconds + Duration::from_micros(of.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_time_counts_once_it_is_waited_for() {
        let before = children_time();
        let status = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
            .status();
        assert!(status.unwrap().success());
        assert!(children_time() > before);
    }
}
