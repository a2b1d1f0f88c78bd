package upstream

import (
	"errors"
	"fmt"
	"mime"

	"hubcap/cache/content"
)

// ErrSchema1 says that a manifest is of Docker's first format, which hubcap
// does not pass on.
var ErrSchema1 = errors.New("a manifest of Docker's schema 1, which is not supported")

func isSchema1(plain string) bool {
	return plain == content.DockerSchema1 || plain == content.DockerSchema1Signed
}

// schema1Of returns the type of a manifest of schema 1, by its header or by its
// shape.
func schema1Of(header string, m content.Manifest) (named string, old bool) {
	if plain := plainType(header); isSchema1(plain) {
		return plain, true
	}
	return m.MediaType, m.Kind == content.Schema1
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

// isWebPage reports whether this is the type of captive portals and error pages.
func isWebPage(mediaType string) bool { return plainType(mediaType) == "text/html" }

// manifestType returns the media type of a manifest: the header's, which must be
// the one that the manifest gives itself if it does (CVE-2021-41190). Where the
// header says nothing it is the manifest's own, or else that of its shape. A web
// page is no manifest.
func manifestType(header string, m content.Manifest) (string, error) {
	if saysNothing(header) {
		if m.MediaType == "" {
			return "", fmt.Errorf("a manifest without a media type: it is announced as %.100q", header)
		}
		header = m.MediaType
	}
	plain := plainType(header)
	switch {
	case plain == "":
		return "", fmt.Errorf("a manifest of the type %.100q, which is none", header)
	case isWebPage(plain):
		return "", errors.New("a web page in place of a manifest")
	case m.Named != "" && m.Named != plain:
		return "", fmt.Errorf("a manifest announced as %.100q that calls itself %.100q", plain, m.Named)
	}
	return header, nil
}
