//! What a URL proves: that its bearer was given it by the CRI, at most a minute ago, and has not used it yet.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::session::{AttachRequest, ExecRequest, PortForwardRequest};

/// What a token was given out for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Errand {
    /// The first part of its URL's path.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u128);

impl Token {
    fn random() -> Result<Self, rustix::io::Errno> {
        let mut bytes = [0; 16];
        // Sixteen bytes are never cut short (getrandom(2)).
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(u128::from_ne_bytes(bytes)))
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Debug for Token {
    /// Without what it is: whoever reads a log must not be able to use it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Why a URL is not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unacceptable {
    #[error("this URL was never given out")]
    Unknown,
    #[error("this URL has been used already: each is good for one session")]
    Used,
    #[error("this URL has expired: ask for a new one")]
    Expired,
    #[error("this URL is for {0}")]
    OtherErrand(&'static str),
}

#[derive(Debug)]
pub(super) struct Tokens {
    lifetime: Duration,
    most: usize,
    entries: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    token: Token,
    issued: Instant,
    /// `None` once it has been used.
    errand: Option<Errand>,
}

/// Spent tokens are remembered this many lifetimes, to say why they are refused.
const MEMORY: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("{0} URLs have been given out and not been used yet")]
    TooMany(usize),
    #[error("draw a token")]
    Random(#[source] rustix::io::Errno),
}

impl Tokens {
    pub(super) fn new(lifetime: Duration, most: usize) -> Self {
        let entries = Mutex::default();
        Self {
            lifetime,
            most,
            entries,
        }
    }

    pub(super) fn issue(&self, errand: Errand, now: Instant) -> Result<Token, IssueError> {
        let token = Token::random().map_err(IssueError::Random)?;
        let mut entries = self.lock();
        entries.retain(|entry| entry.age(now) < self.lifetime * MEMORY);
        let live = |entry: &&Entry| entry.errand.is_some() && entry.age(now) < self.lifetime;
        if entries.iter().filter(live).count() >= self.most {
            return Err(IssueError::TooMany(self.most));
        }
        if entries.len() >= self.most * 4 {
            let spent = entries.iter().position(|entry| !live(&entry));
            spent.and_then(|at| entries.remove(at));
        }
        entries.push_back(Entry {
            token,
            issued: now,
            errand: Some(errand),
        });
        Ok(token)
    }

    /// What the token was given out for, without using it up.
    pub(super) fn look(
        &self,
        path: &str,
        token: &str,
        now: Instant,
    ) -> Result<(Token, Errand), Unacceptable> {
        let token = Token::parse(token).ok_or(Unacceptable::Unknown)?;
        let entries = self.lock();
        let entry = find(&entries, token).ok_or(Unacceptable::Unknown)?;
        let errand = self.check(&entries[entry], now)?;
        if errand.path() != path {
            return Err(Unacceptable::OtherErrand(errand.path()));
        }
        Ok((token, errand.clone()))
    }

    /// Uses the token up. Of two who hold it, one gets through.
    pub(super) fn spend(&self, token: Token, now: Instant) -> Result<(), Unacceptable> {
        let mut entries = self.lock();
        let entry = find(&entries, token).ok_or(Unacceptable::Unknown)?;
        self.check(&entries[entry], now)?;
        entries[entry].errand = None;
        Ok(())
    }

    fn check<'a>(&self, entry: &'a Entry, now: Instant) -> Result<&'a Errand, Unacceptable> {
        match &entry.errand {
            None => Err(Unacceptable::Used),
            Some(_) if entry.age(now) >= self.lifetime => Err(Unacceptable::Expired),
            Some(errand) => Ok(errand),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        // No entry is ever half written.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at every entry, so that the time it takes tells nothing about how much of a guess was right.
fn find(entries: &VecDeque<Entry>, token: Token) -> Option<usize> {
    let mut found = None;
    for (at, entry) in entries.iter().enumerate() {
        if entry.token.0 ^ token.0 == 0 {
            found = Some(at);
        }
    }
    found
}

impl Entry {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn errand() -> Errand {
        Errand::Attach(AttachRequest::default())
    }

    #[test]
    fn a_token_opens_one_session_of_its_kind() {
        let (tokens, now) = (Tokens::new(LIFETIME, 8), Instant::now());
        let text = tokens.issue(errand(), now).unwrap().to_string();
        assert_eq!(
            tokens.look("exec", &text, now),
            Err(Unacceptable::OtherErrand("attach"))
        );
        let (token, found) = tokens.look("attach", &text, now).unwrap();
        assert_eq!(found, errand());
        tokens.spend(token, now).unwrap();
        assert_eq!(tokens.spend(token, now), Err(Unacceptable::Used));
        assert_eq!(tokens.look("attach", &text, now), Err(Unacceptable::Used));
    }

    #[test]
    fn a_token_expires_and_is_forgotten() {
        let (tokens, now) = (Tokens::new(LIFETIME, 1), Instant::now());
        let text = tokens.issue(errand(), now).unwrap().to_string();
        let later = now + LIFETIME;
        assert_eq!(
            tokens.look("attach", &text, later),
            Err(Unacceptable::Expired)
        );
        let much_later = now + LIFETIME * MEMORY;
        tokens.issue(errand(), much_later).unwrap();
        assert_eq!(
            tokens.look("attach", &text, much_later),
            Err(Unacceptable::Unknown)
        );
    }

    #[test]
    fn unused_tokens_are_bounded_and_used_ones_do_not_count() {
        let (tokens, now) = (Tokens::new(LIFETIME, 2), Instant::now());
        for _ in 0..50 {
            let token = tokens.issue(errand(), now).unwrap();
            tokens.spend(token, now).unwrap();
        }
        assert!(tokens.lock().len() <= 8);
        tokens.issue(errand(), now).unwrap();
        tokens.issue(errand(), now).unwrap();
        assert!(matches!(
            tokens.issue(errand(), now),
            Err(IssueError::TooMany(2))
        ));
        tokens.issue(errand(), now + LIFETIME).unwrap();
    }

    #[test]
    fn what_is_no_token_is_unknown() {
        let (tokens, now) = (Tokens::new(LIFETIME, 2), Instant::now());
        let good = tokens.issue(errand(), now).unwrap().to_string();
        for bad in [
            "",
            "+0",
            &good[1..],
            &format!("{good}0"),
            &format!("+{}", &good[1..]),
            "é",
        ] {
            assert_eq!(tokens.look("attach", bad, now), Err(Unacceptable::Unknown));
        }
    }
}
