//! `cordium.v1.Entry`: addresses with tokens, for who may use the control socket.

use cordium_proto::v1::{GetRequest, Kind, OpenPortRequest, OpenPortResponse, entry_server};
use tonic::{Request, Response, Status};

use crate::{Entry, headers::TOKEN, target::Target};

/// The space whose workspaces are named in hosts.
const DEFAULT_SPACE: &str = "default";

/// Hands out addresses.
#[derive(Clone)]
pub struct Service(pub(crate) Entry);

#[tonic::async_trait]
impl entry_server::Entry for Service {
    async fn open_port(
        &self,
        request: Request<OpenPortRequest>,
    ) -> Result<Response<OpenPortResponse>, Status> {
        let OpenPortRequest { workspace, space, port } = request.into_inner();
        let inside = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            Status::invalid_argument(format!("port: was {port}; allowed: a whole number from 1 to 65535"))
        })?;
        let Entry(shared) = &self.0;
        let request = GetRequest { kind: Kind::Workspace.into(), r#ref: workspace, space };
        let found = shared.control().get(request).await.map_err(plain)?.into_inner();
        let metadata = found.metadata.unwrap_or_default();
        let name = matches!(found.space.as_str(), "" | DEFAULT_SPACE).then_some(metadata.name.as_str());
        let entry = self.0.listen().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let host = Target::host(inside, name, &metadata.uid, entry);
        let url = format!("http://{host}/?{TOKEN}={}", shared.key.token(&metadata.uid));
        Ok(Response::new(OpenPortResponse { url }))
    }
}

/// The same refusal, without what it carried on its way.
fn plain(status: Status) -> Status {
    Status::new(status.code(), status.message())
}
