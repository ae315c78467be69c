use std::time::Duration;

use cri::progress::{LayerProgress, LayerStage, PullProgress, PullStage};

use crate::output::size::human;

const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const BAR: u64 = 24;

/// A pull in lines of text: one for the whole, and one for each layer where the runtime tells.
#[derive(Debug)]
pub(super) struct Picture {
    reference: String,
    frame: usize,
    latest: PullProgress,
    /// Of each layer, from when its rate is counted.
    begun: Vec<Option<Begun>>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Duration,
    bytes: u64,
}

impl Picture {
    pub(super) fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            frame: 0,
            latest: PullProgress::default(),
            begun: Vec::new(),
        }
    }

    /// Takes what the runtime told `elapsed` after the start.
    pub(super) fn update(&mut self, update: PullProgress, elapsed: Duration) {
        self.begun.resize(update.layers.len(), None);
        for (layer, begun) in update.layers.iter().zip(&mut self.begun) {
            let now = Begun {
                at: elapsed,
                bytes: layer.done_bytes,
            };
            *begun = match (layer.stage(), *begun) {
                // Fewer than before: it is being fetched again.
                (LayerStage::Fetching, Some(before)) if before.bytes <= now.bytes => Some(before),
                (LayerStage::Fetching, _) => Some(now),
                _ => None,
            };
        }
        self.latest = update;
    }

    /// The next frame, within a terminal's `columns` and `rows`: what wraps or scrolls could not be drawn over.
    pub(super) fn lines(&mut self, elapsed: Duration, columns: usize, rows: usize) -> Vec<String> {
        let spinner = FRAMES[self.frame % FRAMES.len()];
        self.frame += 1;
        let seconds = elapsed.as_secs_f64();
        let doing = match self.latest.stage() {
            PullStage::Unspecified | PullStage::Layers => "",
            PullStage::Resolving => "  asking the registry",
            PullStage::Recording => "  recording",
        };
        let reference = &self.reference;
        let mut lines = vec![format!(
            "{spinner} Pulling {reference}{doing}  {seconds:.1} s"
        )];
        let layers = self.latest.layers.iter().zip(&self.begun);
        let room = rows.saturating_sub(1);
        if layers.len() <= room {
            lines.extend(layers.map(|(layer, begun)| line(layer, *begun, elapsed)));
        } else if room > 0 {
            // What goes on is worth more than what is over.
            let fetching = layers.filter(|(layer, _)| layer.stage() == LayerStage::Fetching);
            let shown = fetching.take(room - 1);
            lines.extend(shown.map(|(layer, begun)| line(layer, *begun, elapsed)));
            let complete = |layer: &&LayerProgress| layer.stage() == LayerStage::Complete;
            lines.push(format!(
                "  {} of {} layers complete",
                self.latest.layers.iter().filter(complete).count(),
                self.latest.layers.len()
            ));
        }
        lines.iter().map(|line| cut(line, columns)).collect()
    }
}

fn line(layer: &LayerProgress, begun: Option<Begun>, elapsed: Duration) -> String {
    let (done, total) = (layer.done_bytes, layer.total_bytes);
    let share = match total {
        0 => 0,
        // Wide, for what a wrong manifest may claim.
        _ => (u128::from(done.min(total)) * u128::from(BAR) / u128::from(total)) as u64,
    };
    let bar: String = (0..BAR)
        .map(|i| if i < share { '█' } else { '░' })
        .collect();
    let digest = short(&layer.digest);
    match layer.stage() {
        LayerStage::Unspecified | LayerStage::Waiting => {
            format!("  {digest}  waiting   {bar}  {}", human(total, 3))
        }
        LayerStage::Fetching => {
            let rate = begun.and_then(|begun| rate(begun, done, elapsed));
            let rate = rate.map_or(String::new(), |rate| format!("  {}/s", human(rate, 3)));
            let (done, total) = (human(done, 3), human(total, 3));
            format!("  {digest}  fetching  {bar}  {done} of {total}{rate}")
        }
        LayerStage::Complete => {
            let full: String = (0..BAR).map(|_| '█').collect();
            format!("  {digest}  complete  {full}  {}", human(total, 3))
        }
    }
}

/// Bytes per second since the fetch began; none while that says little.
fn rate(begun: Begun, done_bytes: u64, elapsed: Duration) -> Option<u64> {
    let seconds = elapsed.saturating_sub(begun.at).as_secs_f64();
    let fetched = done_bytes.saturating_sub(begun.bytes);
    (seconds >= 0.2).then(|| (fetched as f64 / seconds) as u64)
}

/// Twelve digits, as ids are shown; nothing of it can steer the terminal.
fn short(digest: &str) -> String {
    let digits = digest
        .split_once(':')
        .map_or(digest, |(_, digits)| digits)
        .chars();
    digits
        .filter(char::is_ascii_alphanumeric)
        .take(12)
        .collect()
}

/// One column is left free: some terminals wrap when the last is written.
fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digit: char, stage: LayerStage, done_bytes: u64, total_bytes: u64) -> LayerProgress {
        LayerProgress {
            digest: format!("sha256:{}", digit.to_string().repeat(64)),
            stage: stage.into(),
            done_bytes,
            total_bytes,
        }
    }

    fn state(stage: PullStage, layers: Vec<LayerProgress>) -> PullProgress {
        PullProgress {
            stage: stage.into(),
            layers,
        }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn without_updates_there_is_a_line_that_moves() {
        let mut picture = Picture::new("busybox");
        assert_eq!(
            picture.lines(at(1250), 80, 24),
            ["⠋ Pulling busybox  1.2 s"]
        );
        assert_eq!(picture.lines(at(1350), 5, 24), ["⠙ Pu"]);
        assert_eq!(picture.lines(at(1450), 1, 1), [""]);
    }

    #[test]
    fn each_layer_has_its_line() {
        let mut picture = Picture::new("busybox");
        picture.update(state(PullStage::Resolving, Vec::new()), at(100));
        assert_eq!(
            picture.lines(at(100), 80, 24),
            ["⠋ Pulling busybox  asking the registry  0.1 s"]
        );
        let layers = |done| {
            vec![
                layer('a', LayerStage::Complete, 3_000_000, 3_000_000),
                layer('b', LayerStage::Fetching, done, 10_000_000),
                layer('c', LayerStage::Waiting, 0, 999),
            ]
        };
        picture.update(state(PullStage::Layers, layers(1_000_000)), at(1000));
        picture.update(state(PullStage::Layers, layers(5_000_000)), at(2000));
        assert_eq!(
            picture.lines(at(3000), 100, 24),
            [
                "⠙ Pulling busybox  3.0 s",
                "  aaaaaaaaaaaa  complete  ████████████████████████  3MB",
                "  bbbbbbbbbbbb  fetching  ████████████░░░░░░░░░░░░  5MB of 10MB  2MB/s",
                "  cccccccccccc  waiting   ░░░░░░░░░░░░░░░░░░░░░░░░  999B",
            ]
        );
        // Fetched again: the rate begins anew.
        picture.update(state(PullStage::Layers, layers(0)), at(4000));
        let lines = picture.lines(at(4100), 100, 24);
        assert!(lines[2].ends_with("░  0B of 10MB"), "{}", lines[2]);
    }

    #[test]
    fn a_low_terminal_shows_what_goes_on() {
        let mut picture = Picture::new("many");
        let mut layers = vec![layer('a', LayerStage::Complete, 1, 1); 40];
        layers.extend(vec![layer('b', LayerStage::Fetching, 0, 1); 10]);
        picture.update(state(PullStage::Layers, layers), at(0));
        let lines = picture.lines(at(0), 80, 5);
        assert_eq!(lines.len(), 5);
        assert!(lines[1..4].iter().all(|line| line.contains("fetching")));
        assert_eq!(lines[4], "  40 of 50 layers complete");
        assert_eq!(picture.lines(at(0), 80, 2).len(), 2);
        assert_eq!(picture.lines(at(0), 80, 1).len(), 1);
    }

    #[test]
    fn nothing_that_is_told_breaks_the_picture() {
        let mut picture = Picture::new("odd");
        let mut odd = layer('a', LayerStage::Fetching, u64::MAX, 0);
        odd.digest = "\x1b[2J".to_owned();
        picture.update(
            state(
                PullStage::Layers,
                vec![odd, layer('b', LayerStage::Fetching, u64::MAX, u64::MAX)],
            ),
            at(0),
        );
        let lines = picture.lines(at(0), 80, 24).join("\n");
        assert!(!lines.contains('\x1b'), "{lines:?}");
    }
}
