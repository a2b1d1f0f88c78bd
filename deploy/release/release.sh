#!/bin/bash
# Makes everything that is released, from the commit and the files of this
# repository: binaries, packages, SBOMs, an image for all architectures, the Helm
# chart, and SHA256SUMS.
#
#   deploy/release/release.sh OUT              all of it, into the directory OUT
#   deploy/release/release.sh OUT STEP...      these steps alone, in this order
#
# The same commit, Go and certificates of authorities make the same bytes. Needs
# Go and git, and of the tools that .ci/run installs nfpm, cyclonedx-gomod, crane
# and helm. ARCHES="amd64" makes fewer architectures.
set -euo pipefail

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage

root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
read -ra arches <<<"${ARCHES:-amd64 arm64}"
export PATH="$PATH:$(go env GOPATH)/bin:${TEST_E2E_CLIENTS:-$(go env GOPATH)/bin/hubcap-e2e}"
export LC_ALL=C TZ=UTC
export SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct)
day=$(date -d "@$SOURCE_DATE_EPOCH" +%F)

work=$(mktemp -d)
registry=
finish() {
	if [ -n "$registry" ]; then kill "$registry"; fi
	rm -rf "$work"
}
trap finish EXIT

# A clone, because Go writes version and commit into the binary only there. What
# is changed and not committed is built too, and the version then says so.
src=$work/src
git clone --quiet --shared "$root" "$src"
git -C "$root" ls-files -z --cached --others --exclude-standard |
	tar -C "$root" --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar -C "$src" -xf -

# quietly runs a program and shows what it says only if it fails.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }; }

binary() {
	for arch in "${arches[@]}"; do
		(cd "$src" && GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 CGO_ENABLED=0 \
			go build -trimpath -buildvcs=true -ldflags='-s -w -buildid=' -o "$out/hubcap-linux-$arch" .)
	done
}

# The version is the binary's own: v1.2.3 of a tag, else time and commit.
version() { go version -m "$out/hubcap-linux-${arches[0]}" | awk '$1 == "mod" && $2 == "hubcap" { print substr($3, 2) }'; }

# stage ARCH collects what the packages hold.
stage() {
	local to=$src/deploy/package/stage
	mkdir -p "$to"
	cp "$out/hubcap-linux-$1" "$to/hubcap"
	# A package makes its user itself, so that its files have one owner for good.
	sed -e 's|^ExecStart=/usr/local/bin/|ExecStart=/usr/bin/|' -e 's|^DynamicUser=yes$|User=hubcap|' \
		"$src/deploy/hubcap.service" >"$to/hubcap.service"
	(cd "$src" && go run ./deploy/package/texts env) >"$to/hubcap.env"
	rm -rf "$to/man" "$to/completion"
	mkdir "$to/man" "$to/completion"
	(cd "$src" && go run ./deploy/package/texts man "$day" "$to/man" && go run ./deploy/package/texts completion "$to/completion")
	gzip -9n "$to/man/"*
	gzip -9nc "$src/deploy/docs/changelog.md" >"$to/changelog.gz"
	cat >"$to/changelog.yaml" <<-END
		- semver: $VERSION
		  date: $(date -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)
		  packager: hubcap maintainers <hubcap@example.com>
		  deb: {urgency: medium, distributions: [stable]}
		  changes:
		    - note: What has changed is in /usr/share/doc/hubcap/changelog.gz
	END
}

packages() {
	cd "$src/deploy/package"
	for ARCH in "${arches[@]}"; do
		VERSION=$(version)
		stage "$ARCH"
		export ARCH VERSION
		for packager in deb rpm; do
			quietly nfpm package --config nfpm.yaml --packager "$packager" --target "$out"
		done
	done
}

sbom() {
	for arch in "${arches[@]}"; do
		cyclonedx-gomod bin -json -std -noserial -notimestamp -version "v$(version)" \
			-output "$out/hubcap-linux-$arch.cdx.json" "$out/hubcap-linux-$arch"
	done
}

# layer ARCH packs what the Dockerfile puts into the image.
layer() {
	local tree=$work/image-$1
	install -D -m 0755 "$out/hubcap-linux-$1" "$tree/hubcap"
	install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
	install -d "$tree/data"
	local pack=(tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --format=gnu -C "$tree")
	"${pack[@]}" --owner=0 --group=0 -cf "$work/layer-$1.tar" etc hubcap
	"${pack[@]}" --owner=65532 --group=65532 -rf "$work/layer-$1.tar" data
}

# config ARCH is the image's configuration: that of the Dockerfile.
config() {
	cat <<-END
		{
		  "architecture": "$1", "os": "linux", "created": "$(date -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)",
		  "config": {
		    "User": "65532:65532", "Env": ["HUBCAP_DATA_DIR=/data"], "Entrypoint": ["/hubcap"],
		    "ExposedPorts": {"5000/tcp": {}, "5001/tcp": {}}, "Volumes": {"/data": {}},
		    "Healthcheck": {"Test": ["CMD", "/hubcap", "healthcheck"], "Interval": 15000000000, "Timeout": 6000000000, "StartPeriod": 60000000000},
		    "Labels": {
		      "org.opencontainers.image.title": "hubcap",
		      "org.opencontainers.image.description": "A caching pull-through proxy for Docker Hub and every other OCI registry",
		      "org.opencontainers.image.licenses": "Apache-2.0",
		      "org.opencontainers.image.version": "$(version)",
		      "org.opencontainers.image.revision": "$(git -C "$src" rev-parse HEAD)"
		    }
		  },
		  "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum <"$work/layer-$1.tar" | cut -d' ' -f1)"]},
		  "history": [{"created": "$(date -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)", "created_by": "deploy/release/release.sh"}]
		}
	END
}

# image makes an OCI layout of one index, without a container engine: crane puts
# it together in a registry of its own, which listens on loopback and ends with it.
image() {
	crane registry serve --address 127.0.0.1:0 >"$work/registry.log" 2>&1 &
	registry=$!
	local port manifests=()
	until port=$(sed -n 's/.* serving on port //p' "$work/registry.log") && [ -n "$port" ]; do
		kill -0 "$registry" 2>/dev/null || { cat "$work/registry.log" >&2; exit 1; }
		sleep 0.1
	done
	local repository=127.0.0.1:$port/hubcap
	for arch in "${arches[@]}"; do
		layer "$arch"
		quietly crane append --oci-empty-base --new_layer "$work/layer-$arch.tar" --new_tag "$repository:$arch"
		config "$arch" >"$work/config-$arch.json"
		quietly crane edit config --tag "$repository:$arch" "$repository:$arch" <"$work/config-$arch.json"
		manifests+=(--manifest "$repository:$arch")
	done
	quietly crane index append "${manifests[@]}" --tag "$repository:all"
	# crane calls the images artifacts, which some clients leave out.
	crane manifest "$repository:all" | sed 's/,"artifactType":"[^"]*"//g' >"$work/index.json"
	quietly crane edit manifest --tag "$repository:all" "$repository:all" <"$work/index.json"
	quietly crane pull --format=oci "$repository:all" "$work/layout"
	kill "$registry"
	wait "$registry" 2>/dev/null || true
	registry=
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work/layout" -cf "$out/hubcap-image.oci.tar" .
}

chart() {
	helm package "$src/deploy/helm/hubcap" --version "$(version)" --app-version "$(version)" --destination "$out" >/dev/null
}

sums() {
	(cd "$out" && rm -f SHA256SUMS && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
}

if [ $# -eq 0 ]; then set -- binary packages sbom image chart sums; fi
for step in "$@"; do
	case $step in
	binary | packages | sbom | image | chart | sums) "$step" ;;
	*) usage ;;
	esac
done
