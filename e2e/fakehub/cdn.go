package fakehub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const hopPath = "/hop/"

var blobPath = regexp.MustCompile(`^/registry-v2/docker/registry/v2/blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data$`)

// parseCDN returns what a path of the CDN requests.
func parseCDN(path string) (kind Kind, reference string) {
	if m := blobPath.FindStringSubmatch(path); m != nil {
		return KindCDN, m[1] + ":" + m[2]
	}
	return KindOther, ""
}

// signedURL returns the address of a blob at the CDN, which expires.
func (h *Hub) signedURL(d digest.Digest) string {
	o := h.options.Load()
	path := fmt.Sprintf("/registry-v2/docker/registry/v2/blobs/%s/%s/%s/data", d.Algorithm(), d.Encoded()[:2], d.Encoded())
	expires := strconv.FormatInt(o.Clock().Add(o.BlobURLTTL).Unix(), 10)
	return h.CDNURL() + path + "?expires=" + expires + "&sig=" + h.signature(path, expires)
}

func (h *Hub) signature(path, expires string) string {
	mac := hmac.New(sha256.New, h.urlKey)
	fmt.Fprintf(mac, "%s?%s", path, expires)
	return hex.EncodeToString(mac.Sum(nil))
}

// hopURL returns an address that leads to a URL over n redirects.
func (h *Hub) hopURL(n int, to string) string {
	return h.CDNURL() + hopPath + strconv.Itoa(n-1) + "?to=" + url.QueryEscape(to)
}

// hop answers one of the redirects of hopURL.
func (h *Hub) hop(r *http.Request) *answer {
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, hopPath))
	if err != nil {
		return cdnError(http.StatusNotFound, "NoSuchKey")
	}
	to := r.URL.Query().Get("to")
	if n > 0 {
		to = h.hopURL(n, to)
	}
	return redirect(to)
}

// redirect returns a 307 to a URL.
func redirect(to string) *answer {
	a := newAnswer(http.StatusTemporaryRedirect, "text/html; charset=utf-8", bytesSource(nil))
	a.header.Set("Location", to)
	return a
}

// cdn answers a request to the CDN.
func (h *Hub) cdn(r *http.Request, q *Request) *answer {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return cdnError(http.StatusMethodNotAllowed, "MethodNotAllowed")
	case len(r.Header.Values("Authorization")) > 0:
		return cdnError(http.StatusBadRequest, "InvalidArgument")
	case strings.HasPrefix(r.URL.Path, hopPath):
		return h.hop(r)
	case q.Kind != KindCDN:
		return cdnError(http.StatusNotFound, "NoSuchKey")
	case !h.signed(r):
		return cdnError(http.StatusForbidden, "AccessDenied")
	}
	b := h.store.blob("", digest.Digest(q.Reference))
	if b == nil {
		return cdnError(http.StatusNotFound, "NoSuchKey")
	}
	return blobBody(b, digest.Digest(q.Reference))
}

// signed reports whether the URL has a signature of the hub and has not
// expired.
func (h *Hub) signed(r *http.Request) bool {
	query := r.URL.Query()
	expires := query.Get("expires")
	if !hmac.Equal([]byte(query.Get("sig")), []byte(h.signature(r.URL.Path, expires))) {
		return false
	}
	unix, err := strconv.ParseInt(expires, 10, 64)
	return err == nil && h.now().Before(time.Unix(unix, 0))
}

// blobBody answers with a blob or a range of it.
func blobBody(b *source, d digest.Digest) *answer {
	a := newAnswer(http.StatusOK, "application/octet-stream", b)
	a.blob = true
	a.header.Set("Accept-Ranges", "bytes")
	a.header.Set("Etag", `"`+d.Encoded()+`"`)
	return a
}

// cdnError returns an error in the form of object stores.
func cdnError(status int, code string) *answer {
	body := fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>", code, http.StatusText(status))
	return newAnswer(status, "application/xml", bytesSource([]byte(body)))
}
