fn main() -> std::process::ExitCode {
    kvmd::why::main()
}
