package upstream

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
	"hubcap/e2e/fakehub"
)

// pack encodes a text.
func pack[W io.WriteCloser](t *testing.T, text []byte, open func(io.Writer) W) []byte {
	t.Helper()
	var b bytes.Buffer
	w := open(&b)
	_, err := w.Write(text)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packGzip(t *testing.T, text []byte) []byte { return pack(t, text, gzip.NewWriter) }

func packZstd(t *testing.T, text []byte) []byte {
	return pack(t, text, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		return z
	})
}

func packFlate(t *testing.T, text []byte) []byte {
	return pack(t, text, func(w io.Writer) io.WriteCloser {
		f, err := flate.NewWriter(w, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

// TestEncodedTexts: identity is requested, and an answer that is encoded
// nevertheless is decoded, within its bound.
func TestEncodedTexts(t *testing.T) {
	t.Parallel()
	same := func(_ *testing.T, text []byte) []byte { return text }
	bomb := bytes.Repeat([]byte(" "), 16<<20)
	for _, tt := range []struct {
		name, encoding string
		pack           func(*testing.T, []byte) []byte
		ok             bool
	}{
		{"identity", "identity", same, true},
		{"gzip", "gzip", packGzip, true},
		{"gzip in capitals", "GZIP", packGzip, true},
		{"x-gzip", "x-gzip", packGzip, true},
		{"deflate", "deflate", func(t *testing.T, b []byte) []byte { return pack(t, b, zlib.NewWriter) }, true},
		{"deflate without zlib", "deflate", packFlate, true},
		{"zstd", "zstd", packZstd, true},
		{"plain, called gzip", "gzip", same, false},
		{"plain, called zstd", "zstd", same, false},
		{"gzip, cut", "gzip", func(t *testing.T, b []byte) []byte { return packGzip(t, b)[:30] }, false},
		{"zstd, cut", "zstd", func(t *testing.T, b []byte) []byte { return packZstd(t, b)[:30] }, false},
		{"br", "br", same, false},
		{"two of them", "gzip, zstd", func(t *testing.T, b []byte) []byte { return packZstd(t, packGzip(t, b)) }, false},
		{"a bomb of gzip", "gzip", func(t *testing.T, b []byte) []byte { return packGzip(t, append(b, bomb...)) }, false},
		{"a bomb of zstd", "zstd", func(t *testing.T, b []byte) []byte { return packZstd(t, append(b, bomb...)) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
			token := fmt.Appendf(nil, `{"token":%q}`, hub.Token("", repo))
			encoded := func(text []byte) *fakehub.Fault {
				return &fakehub.Fault{Header: http.Header{"Content-Encoding": {tt.encoding}}, Body: tt.pack(t, text)}
			}
			manifest, list, forToken := encoded(image.Body), encoded([]byte(`{"tags":["latest"]}`+strings.Repeat(" ", 100))), encoded(append(token, strings.Repeat(" ", 100)...))
			hub.Script(func(r *fakehub.Request) *fakehub.Fault {
				switch {
				case r.Kind == fakehub.KindToken && tt.ok:
					return forToken
				case r.Authorization == "":
					return nil
				case r.Kind == fakehub.KindTags:
					return list
				default:
					return manifest
				}
			})
			m, err := client.GetManifest(within(t), repo, "latest")
			tags, listErr := client.Tags(within(t), repo)
			if !tt.ok {
				wantKind(t, err, Invalid)
				if !strings.HasPrefix(tt.name, "two") { // decoded once it is no JSON either
					wantKind(t, listErr, Invalid)
				}
				return
			}
			if err != nil || !bytes.Equal(m.Body, image.Body) || m.Digest != image.Manifest.Digest || m.Size != int64(len(image.Body)) {
				t.Errorf("got %+v, %v", m.Descriptor, err)
			}
			if listErr != nil || !slices.Equal(tags, []string{"latest"}) {
				t.Errorf("got %q, %v", tags, listErr)
			}
			d, err := client.HeadManifest(within(t), repo, "latest")
			if want := map[bool]int64{true: image.Manifest.Size, false: -1}[tt.encoding == "identity"]; err != nil || d.Size != want {
				t.Errorf("HEAD: got the size %d, %v, want %d", d.Size, err, want)
			}
		})
	}
	t.Run("a token that is a bomb", func(t *testing.T) {
		t.Parallel()
		hub, client := newHub(t, fakehub.Options{})
		hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
		hub.Script(fakehub.Always(&fakehub.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: packGzip(t, bomb)}, fakehub.OfKind(fakehub.KindToken)))
		wantKind(t, client.head(within(t)), Invalid)
	})
}

// TestTypesAskedFor: Accept names every type of manifest, the most used first,
// for registries that send no other.
func TestTypesAskedFor(t *testing.T) {
	t.Parallel()
	for _, want := range []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.artifact.manifest.v1+json",
		"application/vnd.cncf.oras.artifact.manifest.v1+json", schema1, schema1Signed, "*/*",
	} {
		if !slices.Contains(strings.Split(acceptManifests[0], ", "), want) {
			t.Errorf("%s is not in Accept", want)
		}
	}
}

const schema1, schema1Signed = content.DockerSchema1, content.DockerSchema1Signed

// typeOf returns the type that a manifest is served as.
func typeOf(header, body string) (string, error) {
	m, err := content.Parse([]byte(body))
	if err != nil {
		return "", err
	}
	return manifestType(header, m)
}

// TestTypeByShape: a manifest with an unspecific Content-Type has the type that
// it gives itself, or else that of its shape.
func TestTypeByShape(t *testing.T) {
	t.Parallel()
	image, index := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	for _, header := range []string{"", "application/octet-stream", "text/plain", "application/json; charset=utf-8"} {
		for body, want := range map[string]string{
			`{"schemaVersion":2,"config":{},"layers":[]}`:                                  image,
			`{"schemaVersion":2,"config":{},"layers":[],"manifests":null}`:                 image,
			`{"schemaVersion":2,"manifests":[]}`:                                           index,
			`{"schemaVersion":2,"manifests":[],"layers":null,"config":null}`:               index,
			`{"schemaVersion":2,"mediaType":"` + index + `","manifests":[],"layers":null}`: index,
			`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}`:     "application/vnd.oci.artifact.manifest.v1+json",
			`{"schemaVersion":2,"manifests":null,"layers":null}`:                           "",
			`{"schemaVersion":2,"manifests":[],"layers":[]}`:                               "",
			`{"config":{},"layers":[]}`:                                                    "",
			`{"schemaVersion":2,"layers":[]}`:                                              "",
			`{"mediaType":"text/html"}`:                                                    "",
		} {
			if got, err := typeOf(header, body); got != want || (err == nil) != (want != "") {
				t.Errorf("%q, %s: got %q, %v, want %q", header, body, got, err, want)
			}
		}
	}
	for body, ok := range map[string]bool{
		`{"mediaType":"` + image + `","layers":[],"manifests":null}`: true,
		`{"manifests":[],"layers":[]}`:                               false,
		`{"mediaType":"` + index + `"}`:                              false,
	} {
		if got, err := typeOf(image, body); (err == nil) != ok || ok && got != image {
			t.Errorf("%s: got %q, %v", body, got, err)
		}
	}
}

// TestSchema1: the error for Docker's first format names it.
func TestSchema1(t *testing.T) {
	t.Parallel()
	body := `{"schemaVersion":1,"name":"demo","tag":"latest","architecture":"amd64","fsLayers":[{"blobSum":"sha256:x"}],"history":[],"signatures":[{}]}`
	for header, named := range map[string]string{
		schema1Signed: schema1Signed, schema1: schema1, schema1 + "; charset=utf-8": schema1,
		"application/json": schema1Signed, "text/plain": schema1Signed, "": schema1Signed,
	} {
		hub, client := newHub(t, fakehub.Options{Anonymous: true})
		hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
		hub.Script(fakehub.Always(&fakehub.Fault{Body: []byte(body), Header: http.Header{"Content-Type": {header}}, WrongDigestHeader: "sha256:" + strings.Repeat("1", 64)}, fakehub.OfKind(fakehub.KindManifest)))
		_, err := client.GetManifest(within(t), repo, "latest")
		if wantKind(t, err, Invalid); !errors.Is(err, ErrSchema1) || !strings.HasSuffix(err.Error(), named) {
			t.Errorf("%q: got %v", header, err)
		}
		if !strings.Contains(header, "manifest.v1") {
			continue
		}
		err = client.head(within(t))
		if wantKind(t, err, Invalid); !errors.Is(err, ErrSchema1) {
			t.Errorf("%q: HEAD: got %v", header, err)
		}
	}
}

// TestHeadOfNoType: an unspecific Content-Type of a HEAD is no type.
func TestHeadOfNoType(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	for header, want := range map[string]string{
		"": "", "application/octet-stream": "", "text/plain; charset=utf-8": "", "application/json": "", ";;": "",
		ocispec.MediaTypeImageManifest: ocispec.MediaTypeImageManifest,
	} {
		hub.Script(fakehub.Always(&fakehub.Fault{Header: http.Header{"Content-Type": {header}}}, fakehub.OfKind(fakehub.KindManifest)))
		if d, err := client.HeadManifest(within(t), repo, "latest"); err != nil || d.MediaType != want {
			t.Errorf("%q: got %q, %v, want %q", header, d.MediaType, err, want)
		}
	}
}
