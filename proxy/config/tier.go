package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Bucket is the address of an S3 bucket, path style; its URL is nil for none.
type Bucket struct{ *url.URL }

// bucketName is what S3 allows as the name of a bucket, and what older servers did.
var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bucket) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err == nil && u.User != nil {
		return fmt.Errorf("keys do not belong into the address: want %sS3_ACCESS_KEY and %sS3_SECRET_KEY", Prefix, Prefix)
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" ||
		!bucketName.MatchString(strings.Trim(u.Path, "/")) {
		return errors.New("want the address of a bucket, such as https://s3.example.com:9000/bucket")
	}
	b.URL = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/" + strings.Trim(u.Path, "/")}
	return nil
}

// String is the address; empty for none.
func (b Bucket) String() string {
	if b.URL == nil {
		return ""
	}
	return b.URL.String()
}

// setS3 takes the keys of the bucket, which may come from files, and checks that what
// belongs together is set together.
func (c *Config) setS3(values map[string]string) error {
	access, secret := values[Prefix+"S3_ACCESS_KEY"], values[Prefix+"S3_SECRET_KEY"]
	c.S3AccessKey, c.S3SecretKey = Secret(access), Secret(secret)
	if (access == "") != (secret == "") {
		return fmt.Errorf("%sS3_ACCESS_KEY and %sS3_SECRET_KEY: set both or none", Prefix, Prefix)
	}
	if c.S3URL.URL != nil {
		return nil
	}
	for _, name := range []string{"S3_REGION", "S3_ACCESS_KEY", "S3_WRITE"} {
		if value := values[Prefix+name]; value != "" {
			return refused(Prefix+name, value, errors.New("want "+Prefix+"S3_URL to be set too"))
		}
	}
	return nil
}
