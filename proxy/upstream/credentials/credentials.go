// Package credentials has the box's credentials for a registry at hand: those
// that the operator has written down, and those that a cloud or a helper
// program gives out for a while. It is asked for one registry's host, and knows
// nothing of what is then done with the answer.
//
// No secret is in the text of its errors. The libraries' own texts are not
// passed on where they may quote what they could not read.
//
// Files: credentials.go (the kinds), keeper.go (renewal), given.go, docker.go,
// ecr.go, google.go (the sources).
package credentials

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Kind is where credentials come from.
type Kind string

// The kinds.
const (
	Given        Kind = ""              // the Login itself
	DockerConfig Kind = "docker-config" // docker's config.json and its credential helpers
	ECR          Kind = "ecr"           // Amazon, by the AWS credentials of the environment
	Google       Kind = "google"        // Google Cloud, by its application default credentials
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	switch one := Kind(text); one {
	case DockerConfig, ECR, Google:
		*k = one
		return nil
	}
	return errors.New("want docker-config, ecr or google")
}

// Login is what an operator has said of the box's credentials.
type Login struct {
	Kind     Kind
	Username Secret // with Password; both for Given only
	Password Secret
	Token    Secret // that stands alone, to get others by (OAuth2's refresh_token); for Given only

	// The files that they were read from, if any: each is read again, since
	// whoever put it there may renew it.
	UsernameFile, PasswordFile, TokenFile string
}

// LogsIn tells whether there is anything to log in with.
func (l Login) LogsIn() bool { return l.Kind != Given || l.Username != "" || l.Token != "" }

// Options is what New needs. All is required.
type Options struct {
	Login
	Host    string                                // of the registry, with the port if it names one
	Proxy   func(*http.Request) (*url.URL, error) // for asking a cloud
	RootCAs func() *x509.CertPool                 // likewise: who may vouch for it now; nil for the system's authorities
}

// New makes the keeper of a registry's credential. Nothing is asked yet.
func New(o Options) *Keeper {
	var s source
	switch o.Kind {
	case DockerConfig:
		s = dockerConfig{o.Host}
	case ECR:
		s = ecrSource{o}
	case Google:
		s = googleSource{o}
	default:
		s = given{o.Login}
	}
	return &Keeper{source: s}
}

// Credential is what a registry or its token service is shown: Username and
// Password, a RefreshToken, or an AccessToken.
type Credential = auth.Credential

// source gives a credential out. It gives up when ctx ends, or not much later.
type source interface {
	// get returns a credential and when it ends; zero when that is not known.
	get(ctx context.Context) (auth.Credential, time.Time, error)
}

// Check tells whether a kind has anything to say of a registry's host. What a
// cloud gives out opens more than one registry, and goes to that cloud's only.
func Check(k Kind, host string) error {
	switch {
	case k == ECR && !isECR(host):
		return fmt.Errorf("%s is no registry of Amazon's: want <account>.dkr.ecr.<region>.amazonaws.com or %s", host, ecrPublic)
	case k == Google && !isGoogle(host):
		return fmt.Errorf("%s is no registry of Google's: want gcr.io, *.gcr.io or *.pkg.dev", host)
	}
	return nil
}

// hostname is a host without its port.
func hostname(host string) string {
	name, _, _ := strings.Cut(host, ":")
	return strings.ToLower(name)
}

// Advice tells an operator where to look when the credentials of a kind fail.
func Advice(k Kind, host string) string {
	switch k {
	case DockerConfig:
		return "log in again with `docker login " + host + "` as hubcap's user, or try the credential helper by hand; DOCKER_CONFIG names the directory"
	case ECR:
		return "look at the AWS credentials and region of hubcap's environment; they need the right ecr:GetAuthorizationToken"
	case Google:
		return "look at GOOGLE_APPLICATION_CREDENTIALS or the machine's service account; it needs the right to read artifacts"
	default:
		return "renew HUBCAP_UPSTREAM_<n>_PASSWORD or _TOKEN of the registry"
	}
}
