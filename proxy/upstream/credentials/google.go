package credentials

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// googleScope is the scope that Google's own tools use; the account's roles limit
// it.
const googleScope = "https://www.googleapis.com/auth/cloud-platform"

func isGoogle(host string) bool {
	name := hostname(host)
	return name == "gcr.io" || strings.HasSuffix(name, ".gcr.io") || strings.HasSuffix(name, ".pkg.dev")
}

// googleSource gets an access token, which lives for an hour, with the application
// default credentials: a key file, a federation, or the machine's account.
type googleSource struct{ Options }

func (s googleSource) get(ctx context.Context) (auth.Credential, time.Time, error) {
	if !isGoogle(s.Host) {
		return auth.EmptyCredential, time.Time{}, fmt.Errorf("%s is no registry of Google's", s.Host)
	}
	transport := &http.Transport{
		Proxy: s.Proxy, TLSClientConfig: &tls.Config{RootCAs: s.RootCAs(), MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, // the next request is most of an hour away
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: timeout})
	// Loaded each time: the key file may have changed, and a kept source returns
	// its token until shortly before the end.
	found, err := google.FindDefaultCredentials(ctx, googleScope)
	if err != nil {
		return auth.EmptyCredential, time.Time{}, errors.New("there are no application default credentials, or they cannot be read")
	}
	token, err := found.TokenSource.Token()
	if err != nil {
		return auth.EmptyCredential, time.Time{}, explainGoogle(ctx, err)
	}
	return auth.Credential{Username: "oauth2accesstoken", Password: token.AccessToken}, token.Expiry, nil
}

// explainGoogle returns a failure without the answer's body, which the library
// quotes.
func explainGoogle(ctx context.Context, err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case ctx.Err() != nil:
		return errSlow
	case errors.As(err, &refused) && refused.Response != nil:
		return fmt.Errorf("google refuses: status %d", refused.Response.StatusCode)
	default:
		return errors.New("google's token service does not answer with a token")
	}
}
