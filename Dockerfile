FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without cgo nothing but the kernel is needed where it runs.
RUN CGO_ENABLED=0 go build -trimpath -o /out/hubcap . && mkdir /out/data

FROM scratch
LABEL org.opencontainers.image.title="hubcap" \
      org.opencontainers.image.description="A caching pull-through proxy for Docker Hub and every other OCI registry" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/hubcap /hubcap
# A new volume takes over the owner.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV HUBCAP_DATA_DIR=/data
VOLUME /data
EXPOSE 5000 5001
HEALTHCHECK --interval=15s --timeout=6s --start-period=1m CMD ["/hubcap", "healthcheck"]
ENTRYPOINT ["/hubcap"]
