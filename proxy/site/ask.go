package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"hubcap/cache"
)

// errElsewhere says that a box lives and does not give what it was asked for: it
// does not have it, may not show it, or waits for it from another box.
var errElsewhere = errors.New("the box does not give it")

// errSlow says that a box takes long for what it should have at hand.
var errSlow = errors.New("it does not answer in time")

// OnlyIfCached is the Cache-Control of a request for what is held (RFC 9111, 5.2.1.7).
const OnlyIfCached = "only-if-cached"

// question is what a box is asked for.
type question struct {
	method string // GET if empty
	host   string // of the registry
	path   string // below /v2/
	header http.Header
	// What it holds is asked for: it is to fetch nothing and to wait for nothing, so
	// that its answer begins within this time once it is connected, however far away
	// it is. 0 for what it may fetch.
	held time.Duration
}

// ask asks a box. A box that fails rests; one that only does not give what it is
// asked for is errElsewhere. The caller closes the body.
func (s *Site) ask(ctx context.Context, b *box, q question) (*http.Response, error) {
	silence := s.watchSilence(ctx, b)
	asking, head := silence.ctx, context.CancelFunc(func() {})
	if q.held > 0 {
		asking, head = silence.answersWithin(q.held)
	}
	req, err := s.request(asking, b, q)
	if err != nil {
		silence.end()
		return nil, err
	}
	s.o.Metrics.Asked(b.place)
	silence.begin()
	resp, err := s.http.Do(req)
	head()
	silence.answered()
	if err != nil {
		err = silence.cause(err)
		silence.end()
		s.broke(ctx, b, err)
		return nil, fmt.Errorf("box %s: %w", b.name, err)
	}
	resp.Body = &body{ReadCloser: resp.Body, silence: silence, site: s, box: b, asker: ctx}
	if err := s.refused(b, resp); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("box %s: %w", b.name, err)
	}
	s.answered(b)
	return resp, nil
}

// request is what a box is sent.
func (s *Site) request(ctx context.Context, b *box, q question) (*http.Request, error) {
	at := b.url.JoinPath("v2", q.path)
	at.RawQuery = url.Values{"ns": {q.host}}.Encode()
	req, err := http.NewRequestWithContext(ctx, cmp.Or(q.method, http.MethodGet), at.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"User-Agent": {s.o.UserAgent}, "Via": {s.Via()}, "Accept-Encoding": {"identity"}}
	maps.Copy(req.Header, q.header)
	if q.held > 0 {
		req.Header.Set("Cache-Control", OnlyIfCached)
	}
	return req, nil
}

// refused returns an error for an answer without content.
func (s *Site) refused(b *box, resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK || code == http.StatusPartialContent:
		return nil
	case code == http.StatusLoopDetected:
		s.rest(b, restSelf, ErrSelf)
		return ErrSelf
	case code == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "", code == http.StatusInternalServerError:
		err := fmt.Errorf("it answers %s", resp.Status)
		s.rest(b, restFailed, err)
		return err
	case code == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "0":
		s.answered(b)
		return fmt.Errorf("%w: %w", errElsewhere, cache.ErrFed)
	default:
		if code != http.StatusForbidden { // which look knows more of
			s.answered(b)
		}
		return fmt.Errorf("%w: %s", errElsewhere, resp.Status)
	}
}

// broke has a box rest whose transfer failed with err, unless it was its asker who
// left.
func (s *Site) broke(ctx context.Context, b *box, err error) {
	switch {
	case ctx.Err() != nil:
	case b.sister(): // it is far away, and never the only one
		s.rest(b, restSister, err)
	default:
		s.rest(b, restFailed, err)
	}
}

// body is the body of a box's answer.
type body struct {
	io.ReadCloser
	silence *silence
	site    *Site
	box     *box
	asker   context.Context
}

func (r *body) Read(p []byte) (int, error) {
	r.silence.begin()
	n, err := r.ReadCloser.Read(p)
	r.silence.pause(n)
	r.site.o.Metrics.Received(r.box.place, n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.silence.cause(err)
		r.site.broke(r.asker, r.box, err)
	}
	return n, err
}

func (r *body) Close() error {
	defer r.silence.end()
	return r.ReadCloser.Close()
}

// alive reports whether a box answers its health check.
func (s *Site) alive(ctx context.Context, b *box) bool {
	ctx, cancel := context.WithTimeout(ctx, s.o.BoxTime)
	defer cancel()
	status, _, err := s.greet(ctx, b, "livez")
	return err == nil && status == http.StatusOK
}

// greet asks a box for the head of an answer, and for no content.
func (s *Site) greet(ctx context.Context, b *box, path string) (status int, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url.JoinPath(path).String(), nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header = http.Header{"User-Agent": {s.o.UserAgent}, "Via": {s.Via()}}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header, nil
}
