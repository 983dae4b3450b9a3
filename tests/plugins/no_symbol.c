/* A shared object that is no plugin. */
int zds_no_plugin(void);
int zds_no_plugin(void)
{
    return 0;
}
