//! Pulls and removals of images that are made for the run, beside what the machine could do at best.

use super::{Kind, Run, pods::OTHERS};
use crate::bench::{
    BenchError,
    images::{Bed, Run as Pulls},
    pods::Measured,
    record::{Suite, Unit},
};

/// Cold pulls of each image, at most: each waits for the disk to settle.
const MOST_ROUNDS: usize = 5;

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn images(&mut self) -> Result<(), BenchError> {
        let settings = self.settings;
        let mut bed = Bed::lay(
            &settings.images,
            settings.image_scale_percent,
            &settings.image_directory,
            &mut self.progress,
        )
        .await?;
        let pulled = self.pull_all(&mut bed).await;
        for subject in self.measured {
            bed.remove_from(&subject.calls).await;
        }
        pulled
    }

    async fn pull_all(&mut self, bed: &mut Bed) -> Result<(), BenchError> {
        let rounds = self.settings.repeats.min(MOST_ROUNDS);
        let warmup = self.settings.warmup.min(1);
        let mut inside = self.everybody();
        for (image, name) in bed.names().into_iter().enumerate() {
            let references = bed.references(image);
            let mut pulls: Vec<Pulls> = inside.iter().map(|_| Pulls::default()).collect();
            for round in 1..=warmup + rounds {
                let what = match round.checked_sub(warmup) {
                    None | Some(0) => format!("image {name:?}, warm up"),
                    Some(round) => format!("image {name:?}, {round} of {rounds}"),
                };
                let work = async |index: usize, subject: &Measured| {
                    (pulls[index].round(subject, &references)).await
                };
                self.turn(&mut inside, &what, work).await?;
                if round <= warmup {
                    pulls.fill_with(Pulls::default);
                    continue;
                }
                (self.progress)(&format!("the limit of {name:?}"));
                bed.limit_round(image).await?;
            }
            for (index, pulls) in pulls.iter().enumerate() {
                self.keep_pulls(index, name, pulls);
            }
            let limit = bed.limits()[image].limit_ms;
            let kind = kind(name, "ImageLifecycle", "PullImage", Unit::Ms);
            self.keep(None, kind, None, vec![limit]);
        }
        Ok(())
    }

    fn keep_pulls(&mut self, of: usize, image: &str, pulls: &Pulls) {
        for (experiment, operation, samples) in [
            ("ImageLifecycle", "PullImage", &pulls.cold),
            ("ImageLifecycle", "StatusImage", &pulls.status),
            ("ImageLifecycle", "RemoveImage", &pulls.remove),
            ("ImageListing", "ListImages", &pulls.list),
            (OTHERS, "PullImage of what is there", &pulls.warm),
        ] {
            let kind = kind(image, experiment, operation, Unit::Ms);
            self.keep_times(of, kind, None, samples);
        }
        let times = pulls.costs.iter().map(|cost| cost.times);
        let processor = times.map(|times| (times.user + times.system) * 1e3);
        let cpu = kind(image, OTHERS, "processor time of PullImage", Unit::CpuMs);
        self.keep(Some(of), cpu, None, processor.collect());
        let peaks = pulls.costs.iter().map(|cost| cost.peak_over_idle as f64);
        let peak = kind(image, OTHERS, "peak of memory over idle", Unit::Bytes);
        self.keep(Some(of), peak, None, peaks.collect());
    }
}

fn kind<'a>(image: &'a str, experiment: &'a str, operation: &'a str, unit: Unit) -> Kind<'a> {
    Kind {
        suite: Suite::Images,
        experiment,
        operation,
        variant: image,
        unit,
    }
}
