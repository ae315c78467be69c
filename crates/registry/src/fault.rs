use std::time::{Duration, Instant};

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with an empty body; 429 and 503 come with `Retry-After: 0`.
    Status(u16),
    /// 429 with `Retry-After` of so many seconds, to whoever comes again before.
    Busy(u64),
    /// The body ends after so many bytes, the connection with it, though `Content-Length` promises more.
    Truncate(usize),
    /// The answer comes after so long.
    Delay(Duration),
    /// So many bytes every 100 ms.
    Trickle(usize),
    /// After the headers and so many bytes nothing comes any more; the connection stays open.
    Stall(usize),
    /// The body's middle byte is another one.
    Corrupt,
    /// 307 with this `Location`.
    Redirect(String),
    /// `Range` is ignored: 200 with the whole body.
    NoRanges,
    /// Whatever range is asked for, the answer has bytes 7 to 99, and says so.
    OtherRange,
}

/// Which requests a fault hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    fragment: String,
    method: Option<String>,
    skip: usize,
    times: Option<usize>,
    /// When it first hit.
    since: Option<Instant>,
    fault: Fault,
}

impl Rule {
    /// Hits every request whose path contains `fragment`.
    #[must_use]
    pub fn new(fragment: &str, fault: Fault) -> Self {
        Self {
            fragment: fragment.to_owned(),
            method: None,
            skip: 0,
            times: None,
            since: None,
            fault,
        }
    }

    /// Hits only so many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Lets so many requests pass first.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Hits only this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// The fault, if this request is one to hit; counts it.
    pub(crate) fn apply(&mut self, method: &str, path: &str) -> Option<Fault> {
        let matches = path.contains(&self.fragment)
            && self.method.as_deref().is_none_or(|wanted| wanted == method);
        if !matches {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if let Fault::Busy(seconds) = self.fault
            && since.elapsed() >= Duration::from_secs(seconds)
        {
            return None;
        }
        match &mut self.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        Some(self.fault.clone())
    }
}
