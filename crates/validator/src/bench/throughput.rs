//! How fast much goes through a command's streams, beside a plain TCP copy.

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin};

use bytes::Bytes;
use streaming::{ReadPieces as _, Reader, WritePieces as _, Writer};
use tokio::io::AsyncWriteExt;

use super::statistics::Sorted;

/// One turn of the three, bytes a second: what the machine does meanwhile befalls all alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    /// One connection without a runtime.
    pub(crate) tcp: f64,
    /// Out of a container.
    pub(crate) out: f64,
    /// Into it.
    pub(crate) into: f64,
}

impl Throughput {
    pub(crate) fn out_share(&self) -> f64 {
        self.out / self.tcp
    }

    pub(crate) fn in_share(&self) -> f64 {
        self.into / self.tcp
    }
}

/// 0 without turns.
pub(crate) fn median(turns: &[Throughput], figure: fn(&Throughput) -> f64) -> f64 {
    let figures: Vec<f64> = turns.iter().map(figure).collect();
    Sorted::of(&figures).map_or(0.0, |sorted| sorted.median().value)
}

/// Bytes passed on at a time.
const CHUNK: usize = 256 * 1024;

/// Reads to the end, as commands do: what comes is passed on where it is. How much it was.
pub(crate) async fn drain(from: &mut Reader) -> io::Result<u64> {
    let (mut pieces, mut total) = (VecDeque::new(), 0);
    loop {
        let take = poll_fn(|context| Pin::new(&mut *from).poll_pieces(context, CHUNK, &mut pieces));
        match take.await? {
            0 => return Ok(total),
            count => total += count as u64,
        }
        pieces.clear();
    }
}

/// Writes `bytes` zeros and half-closes.
pub(crate) async fn pour(to: &mut Writer, bytes: u64) -> io::Result<()> {
    let chunk = Bytes::from(vec![0; CHUNK]);
    let mut left = bytes;
    while left > 0 {
        let mut some = chunk.slice(..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK));
        left -= some.len() as u64;
        while !some.is_empty() {
            poll_fn(|context| Pin::new(&mut *to).poll_put(context, &mut some)).await?;
        }
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_a_turn() {
        let turn = |tcp, out| Throughput {
            tcp,
            out,
            into: tcp,
        };
        let turns = [turn(10.0, 5.0), turn(2.0, 2.0), turn(100.0, 10.0)];
        let share = median(&turns, Throughput::out_share);
        assert!((share - 0.5).abs() < 1e-9, "{share}");
        let share = median(&turns, Throughput::in_share);
        assert!((share - 1.0).abs() < 1e-9, "{share}");
        assert!(median(&[], Throughput::out_share) < 1e-9);
    }
}
