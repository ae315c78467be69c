//! Replies of the Stream* RPCs: lists in batches bounded by bytes, so that a node's size bounds no message.

use prost::Message;
use tonic::Status;

use super::Streamed;

/// Well below gRPC's default limit of 4 MiB.
const BATCH_BYTES: usize = 1024 * 1024;

/// Sends items in batches, in order. An empty list is an empty stream.
pub(super) fn stream<T, R>(items: Vec<T>, reply: impl Fn(Vec<T>) -> R) -> Streamed<R>
where
    T: Message,
    R: Send + 'static,
{
    let batches: Vec<Result<R, Status>> = split(items)
        .into_iter()
        .map(|batch| Ok(reply(batch)))
        .collect();
    Box::pin(tokio_stream::iter(batches))
}

fn split<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for item in items {
        let size = item.encoded_len();
        if bytes + size > BATCH_BYTES && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use cri::v1::Container;

    use super::*;

    #[test]
    fn batches_keep_order_and_bound() {
        let item = |n: usize, bytes: usize| Container {
            id: n.to_string(),
            image_ref: "x".repeat(bytes),
            ..Container::default()
        };
        let items: Vec<_> = (0..7).map(|n| item(n, 400_000)).collect();
        let batches = split(items);
        let sizes: Vec<_> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 1]);
        let order: Vec<_> = batches.concat().iter().map(|c| c.id.clone()).collect();
        assert_eq!(order, ["0", "1", "2", "3", "4", "5", "6"]);
        assert_eq!(split(vec![item(0, 3 * BATCH_BYTES)]).len(), 1);
        assert!(split(Vec::<Container>::new()).is_empty());
    }
}
