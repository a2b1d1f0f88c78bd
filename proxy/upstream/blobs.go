package upstream

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream/network"
)

// HeadBlob returns the size of a blob in bytes, negative when not stated.
func (c *Client) HeadBlob(ctx context.Context, repository string, d digest.Digest) (size int64, err error) {
	_, resp, err := c.fetch(ctx, http.MethodHead, repository, "blobs/"+d.String(), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return sizeOf(resp), nil
}

// sizeOf returns the size of the content that an answer to a HEAD is about,
// negative when not stated: the length of an encoding is not it.
func sizeOf(resp *http.Response) int64 {
	if isEncoded(resp.Header) {
		return -1
	}
	return resp.ContentLength
}

// Blob is an answer with bytes of a blob.
type Blob struct {
	Body io.ReadCloser
	Off  int64 // offset in the blob at which Body begins
	End  int64 // at which it ends, exclusive; negative when not stated
	Size int64 // bytes of the whole blob; negative when not stated
	Part bool  // the registry has answered a range
}

// OpenBlob requests n bytes of a blob from off, or all to its end when n is
// negative. A registry without Range support answers from 0.
func (c *Client) OpenBlob(ctx context.Context, repository string, d digest.Digest, off, n int64) (*Blob, error) {
	header := network.Range(off, n)
	req, resp, err := c.sendForBlob(ctx, repository, d, header)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &Blob{Body: resp.Body, End: resp.ContentLength, Size: resp.ContentLength}, nil
	case http.StatusPartialContent:
		first, end, size, ok := network.ContentRange(resp.Header.Get("Content-Range"))
		if ok && first == off && header.Get("Range") != "" && (n < 0 || end <= off+n) {
			return &Blob{Body: resp.Body, Off: off, End: end, Size: size, Part: true}, nil
		}
		resp.Body.Close()
		return nil, c.invalid(req, "Content-Range %.100q for the range %q", resp.Header.Get("Content-Range"), header.Get("Range"))
	case http.StatusRequestedRangeNotSatisfiable:
		if off == 0 && n >= 0 { // an empty blob has no first byte
			resp.Body.Close()
			return c.OpenBlob(ctx, repository, d, 0, -1)
		}
	}
	return nil, c.refusal(req, resp)
}

// locationFor is how long an address that the registry redirected a blob to is
// used again. Registries sign theirs for ten minutes and more; one that expires
// earlier is refused, and the registry is asked anew.
const locationFor = time.Minute

// locationsKept bounds how many are remembered for each upstream and identity.
const locationsKept = 1024

// sendForBlob requests a blob at the address that the registry redirected to
// lately, which is signed for some minutes and serves all pieces of the blob, and
// from the registry if there is none or it is refused.
func (c *Client) sendForBlob(ctx context.Context, repository string, d digest.Digest, header http.Header) (*http.Request, *http.Response, error) {
	ctx = withObject(ctx, d.String())
	key := repository + "@" + d.String()
	if at, ok := c.locations.Get(key); ok {
		req, resp, err := c.exchange(ctx, http.MethodGet, at, header, func(req *http.Request) (*http.Response, error) { return c.do(req, "") })
		if err == nil && resp.StatusCode < 300 {
			return req, resp, nil
		}
		c.locations.Remove(key)
		switch {
		case err != nil && (ctx.Err() != nil || isOnce(ctx)):
			return nil, nil, err
		case err != nil: // the registry may redirect to another host by now
		case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests: // it has been retried already
			return req, resp, nil
		default:
			resp.Body.Close()
		}
	}
	req, resp, err := c.send(ctx, http.MethodGet, repository, "blobs/"+d.String(), header)
	if err == nil && resp.StatusCode < 300 && !sameOrigin(resp.Request.URL, c.o.URL) {
		c.locations.Put(key, resp.Request.URL, locationFor)
	}
	return req, resp, err
}
