// Package credentials gets and renews the box's credentials for a registry:
// configured ones, and temporary ones of a cloud or a helper program. It knows
// nothing of how they are used.
//
// Its errors hold no secret; the libraries' own texts are dropped where they may
// quote what they could not parse.
//
// Files: credentials.go (the kinds), keeper.go (renewal), status.go, given.go,
// docker.go, ecr.go, google.go (the sources).
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

// Login is the configuration of credentials.
type Login struct {
	Kind     Kind
	Username Secret // with Password; both for Given only
	Password Secret
	Token    Secret // an OAuth2 refresh_token, without the others; for Given only

	// The files that they were read from, if any; they are read again at
	// renewal.
	UsernameFile, PasswordFile, TokenFile string
}

// LogsIn reports whether there are any credentials.
func (l Login) LogsIn() bool { return l.Kind != Given || l.Username != "" || l.Token != "" }

// Options configure a Keeper. All are required.
type Options struct {
	Login
	Host    string                                // of the registry, with the port if it names one
	Proxy   func(*http.Request) (*url.URL, error) // to a cloud
	RootCAs func() *x509.CertPool                 // to a cloud: the trusted authorities; nil for the system's
}

// New returns the keeper of a registry's credential. It asks no source yet.
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

// source gives out a credential. It ends with ctx, or soon after.
type source interface {
	// get returns a credential and when it expires; zero when not known.
	get(ctx context.Context) (auth.Credential, time.Time, error)
}

// Check returns an error if a kind does not fit a registry's host: a cloud's
// credentials open several registries, and are sent to that cloud's only.
func Check(k Kind, host string) error {
	switch {
	case k == ECR && !isECR(host):
		return fmt.Errorf("%s is no registry of Amazon's: want <account>.dkr.ecr.<region>.amazonaws.com or %s", host, ecrPublic)
	case k == Google && !isGoogle(host):
		return fmt.Errorf("%s is no registry of Google's: want gcr.io, *.gcr.io or *.pkg.dev", host)
	}
	return nil
}

// hostname returns a host without its port.
func hostname(host string) string {
	name, _, _ := strings.Cut(host, ":")
	return strings.ToLower(name)
}

// Advice returns what an operator can do when the credentials of a kind fail.
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
