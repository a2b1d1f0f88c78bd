package config

import (
	"crypto/x509"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// Client is where the commands find a hubcap, checked.
type Client struct {
	URL     *url.URL       // of the admin port; nil if it is not set
	Token   Secret         // may be empty
	RootCAs *x509.CertPool // for URL; nil for the system's

	// Sockets are the Unix sockets at which a hubcap of this machine may answer, in
	// the order in which they are tried.
	Sockets []string
}

// clientVariables are the variables of Client that are for commands alone.
type clientVariables struct {
	URL   string `env:"URL" means:"admin port of the hubcap that the commands ask, such as https://hubcap.example.com:5001; the one of this machine when empty"`
	Token Secret `env:"TOKEN" means:"content of admin-token or view-token of that hubcap's data directory; not needed on its own machine"`
}

// The directories of the service: packages and deploy/hubcap.service name them.
var serviceDirs = []string{"/run/hubcap", "/var/lib/hubcap"}

// SocketName is the name of the admin port's Unix socket in its directory.
const SocketName = "admin.sock"

// LoadClient reads what the commands need of the environment, given as os.Environ
// gives it. Other variables may have values that Load refuses.
func LoadClient(environ []string) (c Client, err error) {
	wanted := []string{Prefix + "URL", Prefix + "DATA_DIR", Prefix + "ADMIN_SOCKET", Prefix + "CA_FILE"}
	values := env.ToMap(environ)
	maps.DeleteFunc(values, func(name, _ string) bool {
		return !strings.HasPrefix(name, Prefix+"TOKEN") && !slices.Contains(wanted, name)
	})
	if values, err = readSecretFiles(values); err != nil {
		return c, err
	}
	c.Token = Secret(values[Prefix+"TOKEN"])
	var set clientVariables
	var shared struct { // with the service
		DataDir     string `env:"DATA_DIR" envDefault:"./data"`
		AdminSocket string `env:"ADMIN_SOCKET"`
		CAFile      CAFile `env:"CA_FILE"`
	}
	for _, target := range []any{&set, &shared} {
		if err := parse(target, Prefix, values); err != nil {
			return c, err
		}
	}
	if shared.CAFile.CAFile != nil {
		if c.RootCAs, err = withAuthorities(shared.CAFile.Path()); err != nil {
			return c, refused(Prefix+"CA_FILE", shared.CAFile.Path(), err)
		}
	}
	if shared.AdminSocket != "" && shared.AdminSocket != "off" {
		c.Sockets = append(c.Sockets, shared.AdminSocket)
	}
	for _, dir := range append([]string{shared.DataDir}, serviceDirs...) {
		c.Sockets = append(c.Sockets, filepath.Join(dir, SocketName))
	}
	if set.URL != "" {
		if c.URL, err = AdminURL(set.URL); err != nil {
			return c, refused(Prefix+"URL", set.URL, err)
		}
	}
	return c, nil
}

// withAuthorities returns the system's authorities and those of a PEM file.
func withAuthorities(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(file)
	pool.AppendCertsFromPEM(pem)
	return pool, err
}

// AdminURL reads the address of an admin port.
func AdminURL(text string) (*url.URL, error) {
	at, err := url.Parse(text)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || strings.Trim(at.Path, "/") != "" || at.User != nil || at.RawQuery != "" {
		return nil, errors.New("want an address such as https://hubcap.example.com:5001")
	}
	return &url.URL{Scheme: at.Scheme, Host: at.Host}, nil
}
