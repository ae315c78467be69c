//! A pod through each handler of a runtime that lists several, in turn.

use super::Run;
use crate::bench::{BenchError, calls::Calls, record::Suite, sequence::Sequence};

/// A handler of an endpoint.
struct Handler {
    calls: Calls,
    name: String,
    sequence: Sequence,
}

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn handlers(&mut self) -> Result<(), BenchError> {
        let (workload, directory) = (self.workload, self.directory);
        let network = self.first_network();
        let mut inside = self.everybody();
        let mut handlers: Vec<Vec<Handler>> = inside.iter().map(|_| Vec::new()).collect();
        self.turn(&mut inside, "list handlers", async |index, subject| {
            let names = subject.calls.handlers().await?;
            // Of a single one suite pods has told all.
            if names.len() > 1 {
                handlers[index].extend(names.into_iter().map(|name| Handler {
                    calls: subject.calls.through(&name),
                    name,
                    sequence: Sequence::on(network),
                }));
            }
            Ok(())
        })
        .await?;
        let rounds = self.settings.repeats;
        // The first of each does not count.
        for round in 0..=rounds {
            let what = format!("handlers, pod {round} of {rounds}");
            self.turn(&mut inside, &what, async |index, _| {
                for one in &mut handlers[index] {
                    let life = one.sequence.round(&one.calls, workload, directory, round);
                    life.await?;
                }
                Ok(())
            })
            .await?;
        }
        for (index, handlers) in handlers.iter().enumerate() {
            for one in handlers {
                self.keep_lives(index, Suite::Handlers, &one.name, None, &one.sequence);
            }
        }
        Ok(())
    }
}
