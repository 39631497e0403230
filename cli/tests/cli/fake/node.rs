use std::pin::Pin;

use cordium_proto::v1::{node_server::Node, pull_progress::Step, *};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::Fake;

type Answer<T> = Result<Response<T>, Status>;

fn image() -> Image {
    Image {
        reference: "docker.io/library/alpine:3.21".into(),
        digest: "sha256:0123456789abcdef".into(),
        size_bytes: 8 << 20,
        layers: 1,
        pulled_at: None,
        in_use: true,
    }
}

#[tonic::async_trait]
impl Node for Fake {
    async fn get_node(&self, _: Request<GetNodeRequest>) -> Answer<GetNodeResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn start(&self, _: Request<StartRequest>) -> Answer<StartResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn stop(&self, _: Request<StopRequest>) -> Answer<StopResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn delete(&self, _: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn delete_volume(&self, _: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn set_egress(&self, _: Request<SetNodeEgressRequest>) -> Answer<SetNodeEgressResponse> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn list(&self, _: Request<ListNodeWorkspacesRequest>) -> Answer<ListNodeWorkspacesResponse> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn get_usage(&self, _: Request<GetUsageRequest>) -> Answer<GetUsageResponse> {
        Err(Status::unimplemented("not in the fake"))
    }

    type WatchPhasesStream = Pin<Box<dyn Stream<Item = Result<PhaseEvent, Status>> + Send>>;

    async fn watch_phases(&self, _: Request<WatchPhasesRequest>) -> Answer<Self::WatchPhasesStream> {
        Err(Status::unimplemented("not in the fake"))
    }

    type WatchEgressRecordsStream = Pin<Box<dyn Stream<Item = Result<EgressRecord, Status>> + Send>>;

    async fn watch_egress_records(
        &self,
        _: Request<WatchEgressRecordsRequest>,
    ) -> Answer<Self::WatchEgressRecordsStream> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        Ok(Response::new(ListImagesResponse { items: vec![image()] }))
    }

    type PullImageStream = Pin<Box<dyn Stream<Item = Result<PullProgress, Status>> + Send>>;

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        let reference = request.into_inner().reference;
        let step = |layer: &str, step: Step, done| PullProgress {
            layer: layer.into(),
            step: step.into(),
            done_bytes: done,
            total_bytes: if layer.is_empty() { 0 } else { 2048 },
            image: None,
        };
        let mut all = vec![
            Ok(step("", Step::Resolving, 0)),
            Ok(step("sha256:aabbccddeeff0011", Step::Downloading, 10)),
            Ok(step("sha256:aabbccddeeff0011", Step::Downloading, 1000)),
            Ok(step("sha256:aabbccddeeff0011", Step::Done, 2048)),
        ];
        if reference.contains("broken") {
            all.push(Err(Status::not_found("the registry has no such tag")));
        } else {
            let image = Image { reference, ..image() };
            all.push(Ok(PullProgress { image: Some(image), ..step("", Step::Done, 0) }));
        }
        Ok(Response::new(Box::pin(futures::stream::iter(all))))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        match request.into_inner().reference.as_str() {
            "used" => Err(Status::failed_precondition("image \"used\" is in use")),
            _ => Ok(Response::new(RemoveImageResponse { freed_bytes: 1024 })),
        }
    }

    async fn prune_images(&self, _: Request<PruneImagesRequest>) -> Answer<PruneImagesResponse> {
        Ok(Response::new(PruneImagesResponse { removed: vec!["old:1".into()], freed_bytes: 3 << 20 }))
    }
}
