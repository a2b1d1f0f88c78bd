package content

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// of is a digest for a test.
func of(s string) string { return digest.FromString(s).String() }

// TestParse reads each kind of document into its members.
func TestParse(t *testing.T) {
	blob := func(mediaType, name, more string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + of(name) + `","size":7` + more + `}`
	}
	const config, layer = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
	for name, tt := range map[string]struct {
		body                     string
		kind                     Kind
		mediaType                string
		blobs, needed, manifests string
		subject                  string
	}{
		"image": {
			body: `{"schemaVersion":2,"config":` + blob(config, "c", "") + `,"layers":[` + blob(layer, "a", "") + `,` + blob(layer, "b", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "a b c", needed: "a b c",
		},
		"docker image with a foreign layer": {
			body: `{"schemaVersion":2,"mediaType":"x/y","config":` + blob(DockerConfig, "c", "") + `,"layers":[` +
				blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "a", "") + `,` + blob(layer, "b", `,"urls":["http://elsewhere"]`) + `]}`,
			kind: Image, mediaType: "x/y", blobs: "a b c", needed: "c",
		},
		"artifact with a subject": {
			body: `{"schemaVersion":2,"config":` + blob("application/vnd.example", "c", "") + `,"layers":[` + blob("text/x", "a", "") + `],"subject":` + blob("m", "s", "") + `}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "a c", needed: "a", subject: "s",
		},
		"artifact without content": {
			body: `{"schemaVersion":2,"config":` + blob("application/vnd.oci.empty.v1+json", "{}", "") + `,"layers":[` + blob("application/vnd.oci.empty.v1+json", "{}", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "{} {}",
		},
		"artifact manifest": {
			body: `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[` + blob("text/x", "a", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.artifact.manifest.v1+json", blobs: "a", needed: "a",
		},
		"index": {
			body: `{"schemaVersion":2,"manifests":[` + blob("m", "a", `,"platform":{"os":"linux","architecture":"arm64"}`) + `,` + blob("m", "b", "") + `],"layers":null}`,
			kind: Index, mediaType: "application/vnd.oci.image.index.v1+json", manifests: "a b",
		},
		"empty index":                {body: `{"schemaVersion":2,"manifests":[]}`, kind: Index, mediaType: "application/vnd.oci.image.index.v1+json"},
		"image with null manifests":  {body: `{"schemaVersion":2,"manifests":null,"layers":[` + blob(layer, "a", "") + `]}`, kind: Image, blobs: "a", needed: "a"},
		"descriptors without sense":  {body: `{"layers":[{"digest":"x"},{"digest":"sha256:ab"},` + blob(layer, "b", "") + `]}`, kind: Image, blobs: "b", needed: "b"},
		"descriptor without a size":  {body: `{"layers":[{"digest":"` + of("a") + `"}]}`, kind: Image, blobs: "a", needed: "a"},
		"parameters of a media type": {body: `{"config":` + blob(config+"; charset=utf-8", "c", "") + `}`, kind: Image, blobs: "c", needed: "c"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse([]byte(tt.body))
			if err != nil || m.Kind != tt.kind || m.MediaType != tt.mediaType {
				t.Fatalf("%v, kind %d, type %q", err, m.Kind, m.MediaType)
			}
			list := func(visit func(func(Blob) bool)) string {
				var all []string
				visit(func(b Blob) bool { all = append(all, b.Digest.String()); return true })
				return strings.Join(all, " ")
			}
			want := func(names string) string {
				var all []string
				for _, n := range strings.Fields(names) {
					all = append(all, of(n))
				}
				return strings.Join(all, " ")
			}
			if got := list(m.Blobs); got != want(tt.blobs) {
				t.Errorf("blobs %s", got)
			}
			if got := list(m.Needed); got != want(tt.needed) {
				t.Errorf("needed %s", got)
			}
			var children []string
			for _, c := range m.Manifests {
				children = append(children, c.Digest.String())
			}
			if got := strings.Join(children, " "); got != want(tt.manifests) {
				t.Errorf("manifests %s", got)
			}
			if tt.subject != "" && m.Subject.String() != of(tt.subject) {
				t.Errorf("subject %s", m.Subject)
			}
		})
	}
}

// TestParseRefuses what is no manifest, and what two readers could take for two
// things.
func TestParseRefuses(t *testing.T) {
	for _, body := range []string{``, `null`, `[]`, `["v1","v2"]`, `{}`, `{"layers":[],"manifests":[]}`, `{"layers":7}`, `{"schemaVersion":2}`, `{"config":{"Env":[]},"rootfs":{}}`} {
		if m, err := Parse([]byte(body)); !errors.Is(err, ErrNotManifest) {
			t.Errorf("%s: %v, %v", body, m, err)
		}
	}
}

// TestSizes tells a size that is not given from that of the empty content.
func TestSizes(t *testing.T) {
	m, err := Parse([]byte(`{"layers":[{"digest":"` + of("a") + `"},{"digest":"` + of("b") + `","size":0},{"digest":"` + of("") + `","size":0},{"digest":"` + of("c") + `","size":-3},{"digest":"` + of("d") + `","size":4}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{-1, -1, 0, -1, 4} {
		if got := m.Layers[i].Size; got != want {
			t.Errorf("layer %d: %d, want %d", i, got, want)
		}
	}
}

// TestStops ends the visit where the visitor has seen enough.
func TestStops(t *testing.T) {
	m, err := Parse([]byte(`{"layers":[{"digest":"` + of("a") + `"},{"digest":"` + of("b") + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	m.Needed(func(Blob) bool { n++; return false })
	if n != 1 {
		t.Errorf("%d visits", n)
	}
}
