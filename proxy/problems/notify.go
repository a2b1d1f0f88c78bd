package problems

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hubcap/proxy/logging"
)

// The states of a notice.
const (
	Begun = "begun"
	Ended = "ended"
)

// Notice is what is posted about a problem, as JSON.
type Notice struct {
	Text  string    `json:"text"` // all of it in one line, for chats
	Box   string    `json:"box"`  // the host's name
	State string    `json:"state"`
	Ended time.Time `json:"ended,omitzero"`
	Problem
}

// Bounds of notifications.
const (
	queued      = 64               // notices that wait to be posted; further ones are dropped
	postTimeout = 10 * time.Second // for one attempt
)

// pauses are those between the attempts to post a notice, in order.
var pauses = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}

// NotifierOptions is what a Notifier needs; every field is required.
type NotifierOptions struct {
	URL     string // a secret: it may hold a token
	Box     string
	Proxy   func(*http.Request) (*url.URL, error)
	RootCAs func() *x509.CertPool // nil for the system's
	Now     func() time.Time
	After   func(time.Duration) <-chan time.Time
	Log     *slog.Logger
}

// Notifier posts notices to an address, one after the other, each a few times
// until it is accepted. What it logs holds no part of the address.
type Notifier struct {
	o       NotifierOptions
	waiting chan Notice
	dropped logging.Throttle
}

// NewNotifier returns a Notifier; Run starts it.
func NewNotifier(o NotifierOptions) *Notifier {
	return &Notifier{o: o, waiting: make(chan Notice, queued)}
}

// Notify has a notice posted. It does not wait for it.
func (n *Notifier) Notify(notice Notice) {
	select {
	case n.waiting <- notice:
	default:
		if n.dropped.Allow(n.o.Now()) {
			n.o.Log.Warn("a notification is dropped: too many wait for HUBCAP_NOTIFY_URL to answer", "id", notice.ID, "state", notice.State)
		}
	}
}

// Run posts notices until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case notice := <-n.waiting:
			n.deliver(ctx, notice)
		}
	}
}

// deliver posts a notice until it is accepted, refused for good, or has been
// tried often enough.
func (n *Notifier) deliver(ctx context.Context, notice Notice) {
	notice.Box = n.o.Box
	notice.Text = fmt.Sprintf("%s: %s: %s", notice.Box, notice.State, notice.What)
	if notice.State == Begun {
		notice.Text += ". " + notice.Impact + ". Do: " + notice.Do
	}
	body, err := json.Marshal(notice)
	if err != nil {
		n.o.Log.Error("a notification cannot be encoded", "id", notice.ID, "err", err)
		return
	}
	for try := 0; ; try++ {
		again, err := n.post(ctx, body)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !again || try == len(pauses) {
			n.o.Log.Warn("a notification could not be delivered to HUBCAP_NOTIFY_URL", "id", notice.ID, "state", notice.State, "tries", try+1, "err", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-n.o.After(pauses[try]):
		}
	}
}

// withoutAddress returns an error of a request without the address and its host,
// which may hold a token.
func (n *Notifier) withoutAddress(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	text := err.Error()
	if at, err := url.Parse(n.o.URL); err == nil && at.Hostname() != "" {
		text = strings.ReplaceAll(text, at.Hostname(), "(its host)")
	}
	return errors.New(text)
}

// post posts a body once. The error does not name the host; again reports whether
// another attempt may succeed. A redirect is not followed: the body, and what the
// address holds, are for that address.
func (n *Notifier) post(ctx context.Context, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.o.URL, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the address cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "hubcap")
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: n.o.Proxy, DisableKeepAlives: true, // the next one is minutes away
			TLSClientConfig: &tls.Config{RootCAs: n.o.RootCAs(), MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return true, n.withoutAddress(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<10)
	if resp.StatusCode < 300 {
		return false, nil
	}
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	return again, fmt.Errorf("status %d", resp.StatusCode)
}
