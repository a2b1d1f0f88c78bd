package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
)

// The bounds of a list that is fetched whole.
const (
	// tagsAtOnce is how many tags are requested at once, as
	// go-containerregistry does.
	tagsAtOnce = "1000"
	// maxPages is how many pages are requested: ten thousand tags at a hundred
	// a page, as quay.io has them.
	maxPages = 100
	// maxList bounds the bytes of all pages: those of a manifest, as which a
	// list is stored.
	maxList = 4 << 20
)

// maxPage bounds one answer, in bytes: a thousand long tags, or an index of
// referrers.
const maxPage = 4 << 20

// ErrTooLong says that a list exceeds maxPages or maxList.
var ErrTooLong = errors.New("the list is too long to be fetched whole")

// nameUnknown is the OCI distribution specification's code for a repository that
// does not exist.
const nameUnknown = "NAME_UNKNOWN"

// Tags returns the tags of a repository, sorted, each once. The error is
// ErrTooLong for too many.
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	all := []string{}
	err := c.pages(ctx, repository, "tags/list", url.Values{"n": {tagsAtOnce}}, func(page Answer) error {
		var list struct {
			Tags json.RawMessage `json:"tags"`
		}
		var tags []string // null where there are none
		if json.Unmarshal(page.Body, &list) != nil || list.Tags == nil || json.Unmarshal(list.Tags, &tags) != nil {
			return errors.New("no list of tags")
		}
		all = append(all, tags...)
		return nil
	})
	slices.Sort(all)
	return slices.Compact(all), err
}

// Referrers returns the descriptors of the manifests that refer to subject, as
// the registry sends them. Without the referrers API they are those of the index
// that clients maintain under a tag (OCI distribution specification,
// "Unavailable Referrers API"). The error is ErrTooLong for too many.
func (c *Client) Referrers(ctx context.Context, repository string, subject digest.Digest) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	err := c.pages(ctx, repository, "referrers/"+subject.String(), nil, func(page Answer) error {
		found, err := referrersIn(page.MediaType, page.Body)
		all = append(all, found...)
		return err
	})
	if !isUnknown(err) {
		return all, err
	}
	m, err := c.GetManifest(ctx, repository, referrersTag(subject))
	switch {
	case isUnknown(err):
		return []json.RawMessage{}, nil
	case err != nil:
		return nil, err
	}
	found, err := referrersIn(m.MediaType, m.Body)
	if err != nil || m.Digest == subject { // a tag for something else
		return []json.RawMessage{}, nil
	}
	return found, nil
}

// isUnknown reports whether a registry has the repository, as far as it says,
// and not what was requested of it.
func isUnknown(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == NotFound && e.Code != nameUnknown
}

// referrersTag returns the tag under which clients list the referrers of
// subject: at most 32 characters of its algorithm, and 64 of its value.
func referrersTag(subject digest.Digest) string {
	algorithm, value := subject.Algorithm().String(), subject.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + value[:min(len(value), 64)]
}

// referrersIn returns the descriptors of an OCI index; anything else is an error.
func referrersIn(mediaType string, body []byte) ([]json.RawMessage, error) {
	m, err := content.Parse(body)
	if err == nil {
		mediaType, err = manifestType(mediaType, m)
	}
	if err != nil {
		return nil, err
	}
	if plainType(mediaType) != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("%.100q in place of an index", mediaType)
	}
	return content.Descriptors(body)
}

// pages requests a list page by page and has each read by read.
func (c *Client) pages(ctx context.Context, repository, what string, query url.Values, read func(Answer) error) error {
	left := maxList
	for range maxPages {
		page, err := c.Get(ctx, repository, what, query)
		if err != nil {
			return err
		}
		if left -= len(page.Body); left < 0 {
			return ErrTooLong
		}
		if err := read(page); err != nil {
			return &Error{Kind: Invalid, Upstream: c.o.Label, Request: "GET " + what, err: err}
		}
		if page.Next == nil {
			return nil
		}
		if page.Next.Encode() == query.Encode() {
			return &Error{Kind: Invalid, Upstream: c.o.Label, Request: "GET " + what, err: errors.New("a page whose next page is itself")}
		}
		query = page.Next
	}
	return ErrTooLong
}

// Answer is one page of a list.
type Answer struct {
	MediaType string
	Next      url.Values // query of the next page; nil for none
	Filters   string     // OCI-Filters-Applied
	Body      []byte     // JSON
}

// Get requests what is below a repository and neither a manifest nor a blob:
// "tags/list", "referrers/<digest>".
func (c *Client) Get(ctx context.Context, repository, what string, query url.Values) (Answer, error) {
	if encoded := query.Encode(); encoded != "" {
		what += "?" + encoded
	}
	req, resp, err := c.fetch(ctx, http.MethodGet, repository, what, nil)
	if err != nil {
		return Answer{}, err
	}
	body, err := c.text(req, resp, "a list", maxPage)
	if err != nil {
		return Answer{}, err
	}
	if !json.Valid(body) {
		return Answer{}, c.invalid(req, "a list that is no JSON")
	}
	return Answer{
		MediaType: resp.Header.Get("Content-Type"),
		Next:      nextPage(resp.Header.Values("Link")),
		Filters:   resp.Header.Get("OCI-Filters-Applied"),
		Body:      body,
	}, nil
}

// relNext matches the relation "next" among the parameters of a link.
var relNext = regexp.MustCompile(`(?i);\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next[\s"])`)

// linkValue matches a link's target and parameters.
var linkValue = regexp.MustCompile(`<([^>]*)>([^<]*)`)

// nextPage returns the query of the link to the next page (RFC 8288). The link's
// host and path are ignored: the next page is requested from the same list.
func nextPage(links []string) url.Values {
	for _, one := range linkValue.FindAllStringSubmatch(strings.Join(links, ", "), -1) {
		if u, err := url.Parse(one[1]); err == nil && relNext.MatchString(one[2]) {
			return u.Query()
		}
	}
	return nil
}
