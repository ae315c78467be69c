use std::{
    any::Any,
    panic::AssertUnwindSafe,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, StreamExt, stream};

use super::{
    CheckError, Settings,
    bed::Bed,
    case::{self, Case, Ended},
    report::{CaseReport, Report, Verdict},
    scene::Scene,
};
use crate::{bench::machine, order::Order};

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Told<'a> {
    /// The runtime is there, and so many cases will be run.
    Begun {
        /// Its name and version.
        runtime: &'a str,
        /// All rounds together.
        cases: usize,
    },
    /// A case has ended.
    Ended(&'a CaseReport),
}

/// Runs the cases, and removes what they have made, also after a failure.
///
/// Cancellation: once `interrupt` is ready no further case begins; those that run are given up, and what they made is removed.
///
/// # Errors
/// There is no verdict: the endpoint is not there, or does not answer what every case begins with.
pub async fn run(
    settings: &Settings,
    interrupt: impl Future<Output = ()>,
    mut told: impl FnMut(&Told<'_>),
) -> Result<Report, CheckError> {
    let bed = Bed::make(settings).await?;
    let began = Instant::now();
    let mut report = Report::begun(
        &bed.runtime,
        machine(),
        settings,
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    );
    told(&Told::Begun {
        runtime: &bed.runtime,
        cases: settings.cases.len() * settings.rounds as usize,
    });
    let stopped = interrupt.shared();
    for round in 1..=settings.rounds {
        let seed = settings.seed.wrapping_add(u64::from(round));
        let (alone, together): (Vec<_>, Vec<_>) = shuffled(&settings.cases, seed)
            .into_iter()
            .partition(|case| case.alone);
        let both = [(together, settings.parallel.max(1)), (alone, 1)];
        for (cases, at_once) in both {
            let stop = || stopped.peek().is_some();
            let mut running = Box::pin(
                stream::iter(cases)
                    .take_while(|_| std::future::ready(!stop()))
                    .map(|case| one(&bed, case, round, began, stopped.clone()))
                    .buffer_unordered(at_once),
            );
            while let Some(ended) = running.next().await {
                told(&Told::Ended(&ended));
                let failed = ended.verdict == Verdict::Failed;
                report.cases.push(ended);
                if failed && settings.until_failure {
                    report.took_seconds = began.elapsed().as_secs_f64();
                    // What runs beside it is given up, and removed.
                    drop(running);
                    sweep(&bed).await;
                    return Ok(report);
                }
            }
        }
    }
    if stopped.peek().is_some() {
        report
            .notes
            .push("interrupted: not all cases were run".to_owned());
        sweep(&bed).await;
    }
    let image = bed.image.clone();
    let scene = Scene::new(&bed);
    if let Err(refused) = scene.remove_image(&image).await {
        report
            .notes
            .push(format!("an image may be left: {refused}"));
    }
    report.took_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

async fn one(
    bed: &Bed,
    case: &'static Case,
    round: u32,
    began: Instant,
    stopped: impl Future<Output = ()>,
) -> CaseReport {
    let began_seconds = began.elapsed().as_secs_f64();
    let here = Instant::now();
    let limit = bed.settings.timeout;
    let scene = Scene::new(bed);
    let mut ended = tokio::select! {
        ended = play(&scene, case, limit) => ended,
        () = stopped => Err(Ended::Skipped("interrupted".to_owned())),
    };
    let cleared = within(limit, "remove what the case has made", scene.clear()).await;
    if let Err(left) = cleared {
        let left = words(left);
        ended = Err(Ended::Failed(match ended {
            Err(Ended::Failed(why)) => format!("{why}; and then: {left}"),
            Ok(()) | Err(Ended::Skipped(_) | Ended::Unimplemented(_)) => left,
        }));
    }
    let strict = bed.settings.strict;
    let (verdict, message) = match ended {
        Ok(()) => (Verdict::Passed, String::new()),
        Err(Ended::Failed(why)) => (Verdict::Failed, why),
        Err(Ended::Skipped(why)) => (Verdict::Skipped, why),
        Err(ended @ Ended::Unimplemented(_)) if strict => (Verdict::Failed, words(ended)),
        Err(ended @ Ended::Unimplemented(_)) => (Verdict::Skipped, words(ended)),
    };
    CaseReport {
        suite: case.suite.to_owned(),
        name: case.name.to_owned(),
        round,
        began_seconds,
        took_seconds: here.elapsed().as_secs_f64(),
        verdict,
        message,
    }
}

/// A panic of a case is that case's failure.
async fn play(scene: &Scene<'_>, case: &Case, limit: Duration) -> case::Verdict {
    let played = AssertUnwindSafe((case.play)(scene)).catch_unwind();
    within(limit, "the case", async {
        played.await.unwrap_or_else(|panic| {
            Err(Ended::Failed(format!(
                "this case is broken: {}",
                said(&panic)
            )))
        })
    })
    .await
}

async fn within(
    limit: Duration,
    what: &str,
    work: impl Future<Output = case::Verdict>,
) -> case::Verdict {
    let late = |_| Err(Ended::Failed(format!("{what}: not over after {limit:?}")));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}

/// Removes what given-up cases have made.
async fn sweep(bed: &Bed) {
    let scene = Scene::new(bed);
    let filter = scene.run_filter();
    for pod in scene.pods(filter).await.unwrap_or_default() {
        // What refuses is reported by the next run, which finds its names in use.
        let _ = scene.stop_pod(&pod.id).await;
        let _ = scene.remove_pod(&pod.id).await;
    }
}

fn words(ended: Ended) -> String {
    match ended {
        Ended::Failed(why) | Ended::Skipped(why) => why,
        Ended::Unimplemented(rpc) => format!("the runtime does not implement {rpc}"),
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
}

fn shuffled(cases: &[&'static Case], seed: u64) -> Vec<&'static Case> {
    let order = Order::new(seed).shuffled(cases.len());
    order.into_iter().map(|index| cases[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_an_order_and_loses_nothing() {
        let cases = case::cases();
        let titles = |cases: &[&Case]| cases.iter().map(|it| it.title()).collect::<Vec<_>>();
        let first = shuffled(&cases, 7);
        assert_eq!(titles(&first), titles(&shuffled(&cases, 7)));
        assert_ne!(titles(&first), titles(&shuffled(&cases, 8)));
        let mut sorted = titles(&first);
        sorted.sort_unstable();
        let mut all = titles(&cases);
        all.sort_unstable();
        assert_eq!(sorted, all);
    }
}
