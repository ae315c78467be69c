use std::sync::Arc;

use cri::progress::{
    self, BadRecord, CheckFinding, CheckRequest, CheckedLayer, CheckedLayerEnd, Damage, DamageKind,
    check_finding,
};
use image::{CheckError, CheckOutcome, Finding};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Streamed, chain, explain_pull};
use crate::runtime::Runtime;

/// Findings that wait for a client; then the check waits.
const WAITING: usize = 16;

pub(super) async fn check(
    runtime: &Arc<Runtime>,
    request: Request<CheckRequest>,
) -> Result<Streamed<CheckFinding>, Status> {
    let request = request.into_inner();
    let request = image::CheckRequest {
        repair: request.repair,
        layers: request.layers,
        auth: request.auth.map(explain_pull::auth),
    };
    let images = runtime.images.clone();
    let (sender, findings) = mpsc::channel(WAITING);
    let (encoded, messages) = mpsc::channel(1);
    tokio::spawn(async move {
        let ((), result) = tokio::join!(
            forward(findings, encoded.clone()),
            images.check(request, sender)
        );
        if let Err(error) = result {
            // A client that has gone needs no reason.
            let _gone = encoded.send(Err(refused(&error))).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(messages)))
}

/// Ends with the client, and the check with it.
async fn forward(
    mut findings: mpsc::Receiver<Finding>,
    encoded: mpsc::Sender<Result<CheckFinding, Status>>,
) {
    loop {
        let finding = tokio::select! {
            finding = findings.recv() => finding,
            () = encoded.closed() => return,
        };
        let Some(finding) = finding else { return };
        if encoded.send(Ok(encode(finding))).await.is_err() {
            return;
        }
    }
}

fn refused(error: &CheckError) -> Status {
    match error {
        CheckError::Busy => Status::failed_precondition(chain(error)),
        CheckError::UnknownLayer { .. } => Status::not_found(chain(error)),
        CheckError::Store(_) => Status::internal(chain(error)),
    }
}

fn encode(finding: Finding) -> CheckFinding {
    let finding = match finding {
        Finding::Layer {
            key,
            images,
            number,
            total,
        } => check_finding::Finding::Layer(CheckedLayer {
            name: key,
            images,
            number: number as u64,
            total: total as u64,
        }),
        Finding::Damage(damage) => check_finding::Finding::Damage(Damage {
            kind: kind(&damage.kind).into(),
            text: damage.kind.to_string(),
            path: damage.path,
        }),
        Finding::Done { damages, outcome } => check_finding::Finding::End(end(damages, outcome)),
        Finding::Record {
            id,
            reason,
            dropped,
        } => check_finding::Finding::Record(BadRecord {
            image: id,
            reason,
            dropped,
        }),
    };
    CheckFinding {
        finding: Some(finding),
    }
}

fn end(damages: u64, outcome: CheckOutcome) -> CheckedLayerEnd {
    let mut end = CheckedLayerEnd {
        damages,
        ..CheckedLayerEnd::default()
    };
    let outcome = match outcome {
        CheckOutcome::Sound => progress::CheckOutcome::Sound,
        CheckOutcome::Damaged => progress::CheckOutcome::Damaged,
        CheckOutcome::Repaired { origin, containers } => {
            (end.origin, end.containers) = (origin, containers);
            progress::CheckOutcome::Repaired
        }
        CheckOutcome::Unrepaired { reason } => {
            end.reason = reason;
            progress::CheckOutcome::Unrepaired
        }
        CheckOutcome::Gone => progress::CheckOutcome::Gone,
    };
    end.set_outcome(outcome);
    end
}

fn kind(kind: &image::DamageKind) -> DamageKind {
    use image::DamageKind as Found;
    match kind {
        Found::Missing => DamageKind::Missing,
        Found::Extra => DamageKind::Extra,
        Found::Whiteout => DamageKind::Whiteout,
        Found::Kind => DamageKind::Kind,
        Found::Contents => DamageKind::Contents,
        Found::Links => DamageKind::Links,
        Found::Mode { .. } => DamageKind::Mode,
        Found::Owner { .. } => DamageKind::Owner,
        Found::Time => DamageKind::Time,
        Found::Attributes => DamageKind::Attributes,
        Found::Unreadable(_) => DamageKind::Unreadable,
        Found::NoIndex => DamageKind::NoIndex,
        Found::BadIndex(_) => DamageKind::BadIndex,
    }
}
