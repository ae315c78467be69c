//! Sizes of a terminal: JSON objects one after the other on a stream of their own.

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
};

use crate::session::TerminalSize;

/// A size has some thirty bytes.
const LONGEST: usize = 1024;

/// Servers in Go read either spelling.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    #[serde(default, alias = "width")]
    width: u16,
    #[serde(default, alias = "height")]
    height: u16,
}

pub(crate) fn encode(size: TerminalSize) -> Vec<u8> {
    let TerminalSize { width, height } = size;
    // Two numbers: nothing that JSON cannot hold.
    let mut bytes = serde_json::to_vec(&Size { width, height }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Passes sizes on until the stream ends. What is no size is an error; a size of nothing, which a terminal has that was never told any, is passed
/// over, as by the field's servers.
pub(crate) async fn follow(
    stream: &mut (impl AsyncRead + Unpin),
    sizes: &watch::Sender<Option<TerminalSize>>,
) -> Result<(), serde_json::Error> {
    let (mut bytes, mut said) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let Taken { newest, nothing } = take(&mut bytes)?;
        if let Some(size) = newest {
            sizes.send_replace(Some(size));
        }
        if nothing && !std::mem::replace(&mut said, true) {
            tracing::info!("the client's terminal has a size of nothing, which is passed over");
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Taken {
    newest: Option<TerminalSize>,
    /// Some had no rows, or no columns.
    nothing: bool,
}

/// The newest of the whole objects at the front of `bytes`, which are removed.
fn take(bytes: &mut Vec<u8>) -> Result<Taken, serde_json::Error> {
    let mut taken = Taken::default();
    let mut sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let mut used = 0;
    while let Some(size) = sizes.next() {
        match size {
            Ok(Size { width: 0, .. } | Size { height: 0, .. }) => taken.nothing = true,
            Ok(Size { width, height }) => taken.newest = Some(TerminalSize { width, height }),
            Err(error) if error.is_eof() && bytes.len() - used <= LONGEST => break,
            Err(error) => return Err(error),
        }
        used = sizes.byte_offset();
    }
    bytes.drain(..used);
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Resizes;

    #[test]
    fn the_newest_whole_size_counts() {
        let mut bytes = br#"{"Width":80,"Height":24}{"Width":100,"Height":50}
            {"Width":1"#
            .to_vec();
        let (width, height) = (100, 50);
        let taken = take(&mut bytes).unwrap();
        assert_eq!(taken.newest, Some(TerminalSize { width, height }));
        bytes.extend_from_slice(br#"20,"Height":40}"#);
        assert_eq!(take(&mut bytes).unwrap().newest.unwrap().width, 120);
        assert_eq!(take(&mut bytes).unwrap().newest, None);
        // As clients in other languages may spell it.
        let mut small = br#"{"width":7,"height":9}"#.to_vec();
        assert_eq!(take(&mut small).unwrap().newest.unwrap().height, 9);
    }

    #[test]
    fn a_size_of_nothing_is_passed_over() {
        for nothing in [
            r#"{"Width":0,"Height":0}"#,
            r#"{"Width":80}"#,
            r#"{"Height":24}"#,
            "{}",
        ] {
            let taken = take(&mut format!(r#"{{"Width":1,"Height":1}}{nothing}"#).into_bytes());
            let taken = taken.unwrap();
            assert!(
                taken.nothing && taken.newest.unwrap().width == 1,
                "{nothing}"
            );
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for bad in [
            r#"{"Width":-1}"#,
            r#"{"Width":65536,"Height":1}"#,
            "[[",
            "x",
            &format!("{{\"Width\":{}", " ".repeat(2000)),
        ] {
            assert!(take(&mut bad.as_bytes().to_vec()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn sizes_are_followed_up_to_what_is_none() {
        let (sender, mut resizes) = Resizes::channel();
        let size = TerminalSize {
            width: 7,
            height: 9,
        };
        let mut bytes = encode(size);
        bytes.extend_from_slice(b"rubbish");
        let whole = encode(size).len();
        assert!(follow(&mut &bytes[..whole], &sender).await.is_ok());
        assert_eq!(resizes.next().await, Some(size));
        // Read one by one, as they may come.
        let mut slowly = bytes[..whole].chain(&bytes[whole..]);
        assert!(follow(&mut slowly, &sender).await.is_err());
        assert_eq!(resizes.next().await, Some(size));
    }
}
