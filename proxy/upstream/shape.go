package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of Docker's first format, whose images have no digest of their
// bytes. It has been out of use since 2017.
const (
	schema1       = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// ErrSchema1 says that a manifest is of Docker's first format, which hubcap
// does not pass on.
var ErrSchema1 = errors.New("a manifest of Docker's schema 1, which is not supported")

func isSchema1(plain string) bool { return plain == schema1 || plain == schema1Signed }

// schema1Of returns the type of a manifest of schema 1, by its header or by its
// shape.
func schema1Of(header string, body []byte) (named string, old bool) {
	if plain := plainType(header); isSchema1(plain) {
		return plain, true
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Signatures    json.RawMessage `json:"signatures"`
	}
	switch {
	case json.Unmarshal(body, &m) != nil || m.SchemaVersion != 1 || !present(m.FSLayers):
		return "", false
	case present(m.Signatures):
		return schema1Signed, true
	default:
		return schema1, true
	}
}

// plainType is a media type in lower case without its parameters; empty when it
// is none.
func plainType(mediaType string) string {
	plain, _, err := mime.ParseMediaType(mediaType)
	if err != nil {
		return ""
	}
	return plain
}

// saysNothing reports whether a Content-Type is absent, or one that servers
// give to what they know nothing of. What a manifest calls itself says more.
func saysNothing(header string) bool {
	switch plainType(header) {
	case "application/octet-stream", "text/plain", "application/json":
		return true
	default:
		return header == ""
	}
}

// isWebPage tells what captive portals and error pages are sent as.
func isWebPage(mediaType string) bool { return plainType(mediaType) == "text/html" }

// present reports whether a member is there: null is as good as absent.
func present(member json.RawMessage) bool { return member != nil && string(member) != "null" }

// manifestType is the type that the header gives, which must be the one that
// the manifest itself names if it does: what two readers take for two things
// is not passed on (CVE-2021-41190). Where the header says nothing, the
// manifest's own word counts, and where it has none, its shape. A web page is
// no manifest.
func manifestType(header string, body []byte) (string, error) {
	var m *struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", fmt.Errorf("a manifest that is no JSON object: %w", err)
	}
	if m == nil {
		return "", errors.New("a manifest that is no JSON object: null")
	}
	if err := checkShape(body); err != nil {
		return "", fmt.Errorf("a manifest that is not to be passed on: %w", err)
	}
	if present(m.Manifests) && present(m.Layers) {
		return "", errors.New("a manifest that is an image and an index at once")
	}
	if saysNothing(header) {
		switch {
		case m.MediaType != "":
			header = m.MediaType
		case m.SchemaVersion == 2 && present(m.Manifests): // OCI's need not say (OCI image specification, "mediaType")
			header = ocispec.MediaTypeImageIndex
		case m.SchemaVersion == 2 && present(m.Config) && present(m.Layers):
			header = ocispec.MediaTypeImageManifest
		default:
			return "", fmt.Errorf("a manifest without a media type: it is announced as %.100q", header)
		}
	}
	plain := plainType(header)
	switch {
	case plain == "":
		return "", fmt.Errorf("a manifest of the type %.100q, which is none", header)
	case isWebPage(plain):
		return "", errors.New("a web page in place of a manifest")
	case m.MediaType != "" && m.MediaType != plain:
		return "", fmt.Errorf("a manifest announced as %.100q that calls itself %.100q", plain, m.MediaType)
	}
	return header, nil
}

// The bounds of a manifest's JSON. The largest index in use has some hundreds
// of descriptors, each with a platform and annotations.
const (
	maxDepth   = 32
	maxObjects = 30_000
)

// checkShape tells why a manifest's JSON is not to be read by anybody: deeper
// or larger than manifests are, or with a member twice, of which one reader
// takes the first and another the last (CVE-2021-41190). Names that differ in
// case only are the same to some.
func checkShape(manifest []byte) error {
	tokens := json.NewDecoder(bytes.NewReader(manifest))
	tokens.UseNumber()
	top := make(map[string]bool)
	objects, depth, isName := 0, 0, false // isName: a string here is a member of the outermost object
	for {
		token, err := tokens.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			if token == json.Delim('{') {
				objects++
			}
			isName = depth == 1 && token == json.Delim('{')
		case json.Delim('}'), json.Delim(']'):
			depth--
			isName = depth == 1
		default:
			if name, ok := token.(string); ok && isName {
				if name = strings.ToLower(name); top[name] {
					return fmt.Errorf("it has %.50q twice", name)
				}
				top[name] = true
				isName = false // its value is next
			} else if depth == 1 {
				isName = true
			}
		}
		if depth > maxDepth || objects > maxObjects {
			return fmt.Errorf("it is deeper than %d, or has more than %d objects", maxDepth, maxObjects)
		}
	}
}
